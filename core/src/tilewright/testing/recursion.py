"""Random modules whose functions call themselves and each other, and what they compute by Python's own recursion.

Every function takes a count, by which recursion ends, and one to three tensors of shape `SHAPE`; it returns one or two.
Calls stand in straight code, branches and loops, several in one body; arguments are passed on, swapped, or computed.
Every choice comes from the seed. Every tensor is squashed to (-1, 1), so that results stay comparable at any depth.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.builder import FunctionBuilder, FunctionHandle, ModuleBuilder, Type
from tilewright.frontend.legalize.builder import Tensor
from tilewright.ir.expr import Expr
from tilewright.ir.module import Module

Array = npt.NDArray[Any]

SHAPE = (2, 3)
DEEPEST = 2
"""Branches and loops inside each other, at most."""
COUNT: Type = ("int64", ())
TENSOR: Type = ("float32", SHAPE)


@attrs.frozen
class Case:
    """A module, its inputs in order, and its outputs in float64."""

    module: Module
    feeds: tuple[Array, ...]
    wanted: tuple[Array, ...]


def recursion_case(seed: int) -> Case:
    """One module with recursive functions, and inputs for it."""
    writer = _Writer(seed)
    functions = writer.functions()
    feeds: list[Array] = [np.asarray(writer.random.randint(0, 4), np.int64)]
    feeds += [writer.rng.standard_normal(SHAPE).astype(np.float32) for _ in functions["main"].params]
    wanted = _Reference(functions).call("main", int(feeds[0]), [np.tanh(x.astype(np.float64)) for x in feeds[1:]])
    return Case(_build(functions), tuple(feeds), tuple(wanted))


# Programs: tensors have names, and a block's last names are its results.


@attrs.frozen
class _Apply:
    """`target = tanh(kind(a, b))`."""

    target: str
    kind: str
    a: str
    b: str
    weight: Array = attrs.field(eq=False)


@attrs.frozen
class _Call:
    """`targets = function(count - less, args)`."""

    targets: tuple[str, ...]
    function: str
    less: int
    args: tuple[str, ...]


@attrs.frozen
class _Branch:
    """`targets = then if test else orelse`; the test is on the count's parity, or on one element."""

    targets: tuple[str, ...]
    of: str
    bound: float
    then: _Block
    orelse: _Block


@attrs.frozen
class _Repeat:
    """`targets = states` after some trips.

    Args:
        trips: their number; the count modulo 3 where it is negative, by a loop with a condition where it is -2.
    """

    targets: tuple[str, ...]
    trips: int
    states: tuple[str, ...]
    start: tuple[str, ...]
    body: _Block


@attrs.frozen
class _Block:
    steps: tuple[_Apply | _Call | _Branch | _Repeat, ...]
    results: tuple[str, ...]


@attrs.frozen
class _Function:
    """`base` where the count is 0 or less, otherwise `body`."""

    params: tuple[str, ...]
    results: int
    base: _Block
    body: _Block


class _Writer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.names = 0
        self.signatures: dict[str, tuple[tuple[str, ...], int]] = {}
        self.calls = 0

    def functions(self) -> dict[str, _Function]:
        """The entry `main`, which nothing calls, and one to three others."""
        for number in range(self.random.randint(1, 3)):
            params = tuple(self.fresh("p") for _ in range(self.random.randint(1, 3)))
            self.signatures[f"f{number}"] = (params, self.random.randint(1, 2))
        found = {name: self.function(name) for name in self.signatures}
        params = (self.fresh("x"), self.fresh("y"))
        scope = list(params)
        self.calls = 2
        steps = [self.call(scope, 0) for _ in range(self.random.randint(1, 2))]
        steps += self.steps(scope, 0)
        steps.append(self.call(scope, 0))
        main = _Block(tuple(steps), tuple(dict.fromkeys(scope[-2:])))
        return {**found, "main": _Function(params, len(main.results), main, main)}

    def function(self, name: str) -> _Function:
        params, results = self.signatures[name]
        base = self.block(list(params), results, calls=0)
        body = self.block(list(params), results, calls=self.random.randint(1, 3))
        return _Function(params, results, base, body)

    def fresh(self, hint: str) -> str:
        self.names += 1
        return f"{hint}{self.names}"

    def block(self, scope: list[str], results: int, calls: int = -1, depth: int = 0) -> _Block:
        """A block with results among what it computes or what is in scope. `calls` is how many it may make."""
        if calls >= 0:
            self.calls = calls
        steps = self.steps(scope, depth) if depth or calls or self.random.random() < 0.7 else []
        if calls > 0 and self.calls == calls:
            steps.append(self.call(scope, 1))
        return _Block(tuple(steps), (scope[-1], *(self.random.choice(scope[-4:]) for _ in range(results - 1))))

    def steps(self, scope: list[str], depth: int) -> list[Any]:
        found: list[Any] = []
        for _ in range(self.random.randint(1, 3)):
            kinds = ["apply", "apply"]
            kinds += ["call"] * 2 * (self.calls > 0) + ["branch", "repeat"] * (depth < DEEPEST)
            match self.random.choice(kinds):
                case "apply":
                    found.append(self.apply(scope))
                case "call":
                    found.append(self.call(scope, 1))
                case "branch":
                    found.append(self.branch(scope, depth))
                case _:
                    found.append(self.repeat(scope, depth))
        return found

    def add(self, scope: list[str], count: int) -> tuple[str, ...]:
        made = tuple(self.fresh("t") for _ in range(count))
        scope += made
        return made

    def apply(self, scope: list[str]) -> _Apply:
        a, b = self.random.choice(scope[-3:]), self.random.choice(scope)  # so that most of what is made is used
        kind = self.random.choice(["Sub", "Mul", "MatMul", "rows"])
        weight = self.rng.standard_normal((3, 3)).astype(np.float32)
        return _Apply(self.add(scope, 1)[0], kind, a, b, weight)

    def call(self, scope: list[str], less: int) -> _Call:
        self.calls -= 1
        name = self.random.choice(list(self.signatures))
        params, results = self.signatures[name]
        # Often what came in at the same position, so that some arguments are the same at every depth.
        positions = range(len(params))
        args = [scope[n % len(scope)] if self.random.random() < 0.5 else self.random.choice(scope) for n in positions]
        return _Call(self.add(scope, results), name, less * self.random.choice([1, 1, 2]), tuple(args))

    def branch(self, scope: list[str], depth: int) -> _Branch:
        results = self.random.randint(1, 2)
        of = self.random.choice(["", *scope])
        sides = [self.block(list(scope), results, depth=depth + 1) for _ in range(2)]
        return _Branch(self.add(scope, results), of, self.random.uniform(-0.5, 0.5), sides[0], sides[1])

    def repeat(self, scope: list[str], depth: int) -> _Repeat:
        count = self.random.randint(1, 2)
        states = tuple(self.fresh("s") for _ in range(count))
        start = tuple(self.random.choice(scope) for _ in range(count))
        body = self.block([*scope, *states], count, depth=depth + 1)
        return _Repeat(self.add(scope, count), self.random.choice([-2, -1, 0, 1, 2]), states, start, body)


@attrs.frozen
class _Reference:
    """Evaluation in float64, by Python's own calls."""

    functions: Mapping[str, _Function]

    def call(self, name: str, count: int, args: Sequence[Array]) -> list[Array]:
        function = self.functions[name]
        env = dict(zip(function.params, args, strict=True))
        return self.block(function.body if count > 0 else function.base, count, env)

    def block(self, block: _Block, count: int, outer: Mapping[str, Array]) -> list[Array]:
        env = dict(outer)
        for step in block.steps:
            match step:
                case _Apply():
                    env[step.target] = np.tanh(_numpy(step, env[step.a], env[step.b]))
                case _Call():
                    made = self.call(step.function, count - step.less, [env[x] for x in step.args])
                    env.update(zip(step.targets, made, strict=True))
                case _Branch():
                    taken = env[step.of][0, 0] < step.bound if step.of else count % 2 == 0
                    made = self.block(step.then if taken else step.orelse, count, env)
                    env.update(zip(step.targets, made, strict=True))
                case _Repeat():
                    states = [env[x] for x in step.start]
                    for _ in range(count % 3 if step.trips < 0 else step.trips):
                        states = self.block(step.body, count, {**env, **dict(zip(step.states, states, strict=True))})
                    env.update(zip(step.targets, states, strict=True))
        return [env[x] for x in block.results]


def _numpy(step: _Apply, a: Array, b: Array) -> Array:
    match step.kind:
        case "Sub":
            return np.asarray(a - b)
        case "Mul":
            return np.asarray(a * b)
        case "MatMul":
            return np.asarray(a @ step.weight)
        case _:
            return np.asarray(a - b.mean(axis=1, keepdims=True))


def _build(functions: Mapping[str, _Function]) -> Module:
    """The module of the functions."""
    builder = ModuleBuilder(depth=16)
    handles: dict[str, FunctionHandle] = {}

    def declare(name: str, function: _Function) -> None:
        def trace(b: FunctionBuilder, *args: Tensor) -> Any:
            given = [b.op("Tanh", x) for x in args[1:]] if name == "main" else args[1:]
            env = dict(zip(function.params, given, strict=True))

            def side(block: _Block) -> Callable[[], Any]:
                return lambda: _trace(b, block, args[0], env, handles)

            if name == "main":
                return side(function.body)()
            return b.cond(b.op("LessOrEqual", args[0], 0), side(function.base), side(function.body))

        names = ["count", *function.params]
        types = [COUNT, *([TENSOR] * len(function.params))]
        traced = _named(trace, name, names)
        if name == "main":
            builder.entry(types)(traced)
        else:
            handles[name] = builder.function(types, [TENSOR] * function.results)(traced)

    for name, function in functions.items():
        declare(name, function)
    return builder.build()


def _named(trace: Callable[..., Any], name: str, names: Sequence[str]) -> Callable[..., Any]:
    """The function under a name and with named parameters, as `def` would make it."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    trace.__name__ = name
    params = [inspect.Parameter(x, kind) for x in ("b", *names)]
    trace.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
    return trace


def _trace(
    b: FunctionBuilder, block: _Block, count: Tensor, outer: Mapping[str, Tensor], handles: Mapping[str, FunctionHandle]
) -> tuple[Tensor, ...]:
    env = dict(outer)

    def several(made: Any) -> tuple[Tensor, ...]:
        return made if isinstance(made, tuple) else (made,)

    def inner(part: _Block, more: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return _trace(b, part, count, {**env, **more}, handles)

    for step in block.steps:
        match step:
            case _Apply():
                env[step.target] = b.op("Tanh", _operator(b, step, env[step.a], env[step.b]))
            case _Call():
                left = b.op("Sub", count, step.less) if step.less else count
                made = b.call(handles[step.function], left, *(env[x] for x in step.args))
                env.update(zip(step.targets, several(made), strict=True))
            case _Branch():
                test = b.op("Equal", b.op("Mod", count, 2), 0)
                if step.of:
                    corner = env[step.of]
                    test = b.compute("bool", (), partial(_below, corner, step.bound))
                made = b.cond(test, partial(inner, step.then, {}), partial(inner, step.orelse, {}))
                env.update(zip(step.targets, several(made), strict=True))
            case _Repeat():
                trips = b.op("Mod", count, 3) if step.trips < 0 else step.trips

                def trip(_: Tensor, *states: Tensor, s: _Repeat = step) -> tuple[Tensor, ...]:
                    return inner(s.body, dict(zip(s.states, states, strict=True)))

                def left(number: Tensor, *_: Tensor, most: Any = trips) -> Any:
                    return b.op("Less", number, most)

                def counted(number: Tensor, *states: Tensor, trip: Callable[..., Any] = trip) -> Any:
                    return b.op("Add", number, 1), *trip(number, *states)

                start = [env[x] for x in step.start]
                if step.trips == -2:
                    found = several(b.while_loop(left, counted, np.asarray(0), *start))[1:]
                else:
                    found = several(b.for_loop(trips, trip, *start))
                env.update(zip(step.targets, found, strict=True))
    return tuple(env[x] for x in block.results)


def _below(x: Tensor, bound: float) -> Expr:
    return x[0, 0] < bound


def _operator(b: FunctionBuilder, step: _Apply, x: Tensor, y: Tensor) -> Tensor:
    if step.kind == "MatMul":
        found = b.op("MatMul", x, step.weight)
    elif step.kind == "rows":
        found = b.op("Sub", x, b.op("ReduceMean", y, np.asarray([1]), keepdims=1))
    else:
        found = b.op(step.kind, x, y)
    assert isinstance(found, Tensor)
    return found
