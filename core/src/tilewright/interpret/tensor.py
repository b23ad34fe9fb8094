"""The meaning of a module on tensors, with NumPy: every operator over its whole domain, one after the other.

This is the reference that compiled programs and rewrites are compared with. It rounds to the declared dtype at every
write, keeps the order of scatters, and refuses a program that reads out of range or leaves an element unwritten.
Calls go on a stack of their own, not on Python's, so their depth is bounded by the module alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.errors import InputError, InternalError
from tilewright.interpret import routines
from tilewright.interpret.contraction import contract, product_of
from tilewright.interpret.domain import Block, blocks, read, used_axes
from tilewright.interpret.evaluate import evaluate, evaluate_all
from tilewright.interpret.reduction import merge, reduce_states
from tilewright.interpret.store import Target
from tilewright.ir import dtypes
from tilewright.ir.calls import recursive, too_deep
from tilewright.ir.expr import Expr, Var
from tilewright.ir.module import Module, Symbol
from tilewright.ir.ops import Axis, Call, If, Loop, Op, Region, Routine, ScanOp, TensorOp, Value

Array = npt.NDArray[Any]
_Running = Generator[tuple[Call, "list[Array]"], "list[Array]", "list[Array]"]
"""A region at work: yields each call with its arguments, is sent the results, and returns its own."""

_POINTS = 1 << 22
"""Points of a domain that are computed at once."""
_FACTOR = 1 << 26
"""Elements of a factor of a contraction that are gathered at once."""


def interpret(
    module: Module, inputs: Mapping[str, Array] | Sequence[Array], symbols: Mapping[str, int] | None = None
) -> tuple[Array, ...]:
    """The results of a legalised module.

    The shapes of the inputs give the symbols their values.

    Args:
        inputs: an array per parameter, by its name in the ONNX model or in the module, or in order.
        symbols: values of symbols that are no extent of an input.

    Raises:
        InputError: an input is missing, unknown, or of another dtype or shape; calls nest deeper than the module says.
        InternalError: the module still has ONNX nodes, reads out of range, or leaves an element unwritten.
    """
    params = module.main.body.params
    names = module.input_names or tuple(x.name for x in params)
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(params):
            raise InputError(f"The module takes {len(params)} inputs, {len(inputs)} are given.")
        inputs = dict(zip(names, inputs, strict=True))
    given = dict(inputs)
    frame: dict[str, Array] = {}
    values = dict(symbols or {})
    for name, param in zip(names, params, strict=True):
        found = given.pop(name, None)
        found = given.pop(param.name, None) if found is None else found
        if found is None:
            raise InputError(f"The input {name!r} is missing.", f"Inputs are {', '.join(map(repr, names))}.")
        array = np.asarray(found)
        frame[param.name] = array
        learn(param, array.shape, module.symbols, values)
    if given:
        raise InputError(f"{sorted(given)[0]!r} is no input.", f"Inputs are {', '.join(map(repr, names))}.")
    for name, param in zip(names, params, strict=True):
        array = frame[param.name]
        if array.dtype != dtypes.to_numpy(param.dtype) or not fits(param, array.shape, module.symbols, values):
            raise InputError(
                f"Input {name!r} must be {param.dtype} {list(param.extents)}; found {array.dtype} {list(array.shape)}."
            )
    return tuple(_Machine(module, values).run(frame))


def learn(value: Value, shape: Sequence[int], symbols: Sequence[Symbol], values: dict[str, int]) -> None:
    """Adds the values of the symbols that an array of `shape` is the first to show as `value`."""
    names = {x.name for x in symbols}
    for extent, size in zip(value.shape, shape, strict=False):
        if isinstance(extent, Var) and extent.name in names:
            values.setdefault(extent.name, size)


def fits(value: Value, shape: Sequence[int], symbols: Sequence[Symbol], values: Mapping[str, int]) -> bool:
    """Whether an array of `shape` can be `value` for the values of the symbols, within their bounds."""
    inside = all(x.lower <= values[x.name] <= x.upper for x in symbols if x.name in values)
    return inside and shape == tuple(int(evaluate(x, values)) for x in value.shape)


@attrs.frozen
class _Machine:
    """Runs regions. A frame maps the names of values to arrays."""

    module: Module
    symbols: dict[str, int]

    def run(self, frame: dict[str, Array]) -> list[Array]:
        """The results of the entry."""
        bounded = recursive(self.module) if len(self.module.functions) > 1 else frozenset()
        stack = [("", self._region(self.module.main.body, frame))]
        depth = 0
        answer: list[Array] | None = None
        while True:
            name, running = stack[-1]
            try:
                call, args = running.send(answer) if answer is not None else next(running)
            except StopIteration as done:
                stack.pop()
                depth -= name in bounded
                answer = done.value
                if not stack:
                    return list(done.value)
                continue
            depth += call.function in bounded
            if depth > self.module.depth:
                raise too_deep(call.function, self.module.depth)
            body = self.module.functions[call.function].body
            given = {p.name: x for p, x in zip(body.params, args, strict=True)}
            stack.append((call.function, self._region(body, given)))
            answer = None

    def _find(self, value: Value, frame: Mapping[str, Array]) -> Array:
        """The array of a value."""
        found = frame.get(value.name)
        if found is None:
            constant = self.module.constants.get(value.name)
            if constant is None:
                raise InternalError(f"{value.name} is used before it is defined.")
            found = constant.data
        return found

    def _region(self, region: Region, frame: dict[str, Array]) -> _Running:
        """Executes the operators; arrays that nothing needs any more are dropped."""
        last: dict[str, int] = {}
        for n, op in enumerate(region.ops):
            last.update((x.name, n) for x in op.inputs if x is not None)
        keep = {x.name for x in region.results} | set(frame)
        for n, op in enumerate(region.ops):
            outputs = yield from self._execute(op, frame)
            for value, array in zip(op.outputs, outputs, strict=True):
                if value is not None:
                    frame[value.name] = array
            for x in op.inputs:
                if x is not None and last.get(x.name) == n and x.name not in keep:
                    frame.pop(x.name, None)
        return [self._find(x, frame) for x in region.results]

    def _execute(self, op: Op, frame: dict[str, Array]) -> _Running:
        match op:
            case TensorOp():
                return _tensor_op(op, {x.name: self._find(x, frame) for x in op.inputs}, self.symbols)
            case ScanOp():
                return _scan_op(op, {x.name: self._find(x, frame) for x in op.inputs}, self.symbols)
            case Routine():
                return list(routines.run(op, [self._find(x, frame) for x in op.inputs], self.symbols))
            case If():
                taken = op.then if bool(self._find(op.condition, frame)) else op.orelse
                return (yield from self._region(taken, dict(frame)))
            case Loop():
                return (yield from self._loop(op, frame))
            case Call():
                return (yield op, [self._find(x, frame) for x in op.inputs])
            case _:
                raise InternalError(f"{type(op).__name__} {op.name} has no meaning on tensors; legalise it first.")

    def _loop(self, op: Loop, frame: Mapping[str, Array]) -> _Running:
        trips = None if op.trip is None else int(self._find(op.trip, frame))
        if op.count is not None:
            trips = int(evaluate(op.count, self.symbols))
        going = np.asarray(True if op.condition is None else bool(self._find(op.condition, frame)))
        carried = [self._find(x, frame) for x in op.carried]
        collected: list[list[Array]] = [[] for _ in op.outputs[len(carried) :]]
        number = 0
        while bool(going) and (trips is None or number < trips):
            given = [np.asarray(number, np.int64), going, *carried]
            inner = dict(frame) | {p.name: x for p, x in zip(op.body.params, given, strict=True)}
            results = yield from self._region(op.body, inner)
            going, carried = results[0], results[1 : 1 + len(carried)]
            for rows, row in zip(collected, results[1 + len(carried) :], strict=True):
                rows.append(row)
            number += 1
        stacked = []
        for value, rows in zip(op.outputs[len(carried) :], collected, strict=True):
            # A loop that ends early leaves the rows behind its last trip as they are.
            whole = np.zeros([int(evaluate(x, self.symbols)) for x in value.shape], dtypes.to_numpy(value.dtype))
            if rows:
                whole[:number] = np.stack(rows)
            stacked.append(whole)
        return [*carried, *stacked]


def _whole(axes: Sequence[Axis], symbols: Mapping[str, Any]) -> Block:
    extents = [int(evaluate(x.extent, symbols)) for x in axes]
    return Block(tuple(x.name for x in axes), tuple((0, n) for n in extents))


def _loads(op: TensorOp | ScanOp, data: Mapping[str, Array], env: Mapping[str, Any], block: Block) -> dict[int, Array]:
    """Every read of the operator over a block."""
    found: dict[int, Array] = {}
    for slot, access in enumerate(op.reads):
        found[slot] = read(access, data[access.value.name], env, found, block)
    return found


def _shape(exprs: Sequence[Expr], symbols: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(evaluate(x, symbols)) for x in exprs)


def _tensor_op(op: TensorOp, data: Mapping[str, Array], symbols: Mapping[str, Any]) -> list[Array]:
    whole = _whole(op.axes, symbols)
    spatial = len(op.spatial)
    reduced = tuple(range(spatial, len(op.axes)))
    targets = [
        Target(w, _shape(w.value.shape, symbols), None if w.base is None else data[w.base.name]) for w in op.writes
    ]
    outer = Block(whole.names, whole.ranges[:spatial] + tuple((0, 1) for _ in reduced))
    if whole.size() == 0 and not reduced:
        return [x.finish() for x in targets]
    product = product_of(op)
    if product is not None and whole.size() > 0:
        axes = [
            [whole.names.index(n) for n in used_axes(op.reads[s], whole.names, {})]
            for s in (product.left, product.right)
        ]

        def factors(block: Block) -> tuple[int, Sequence[int]]:
            sizes = [block.size(x) for x in axes]
            larger = axes[0] if sizes[0] >= sizes[1] else axes[1]
            return max(sizes), sorted((n for n in larger if n < spatial), key=lambda n: -block.shape[n])

        for block in blocks(whole, _FACTOR, factors):
            env = block.variables(symbols)
            loads = _loads(op, data, env, block)
            total = contract(
                _over_axes(loads[product.left], len(op.axes)),
                _over_axes(loads[product.right], len(op.axes)),
                product.dtype,
                reduced,
                block.shape,
            )
            _store(op, targets, (total,), block, spatial, env, loads)
        return [x.finish() for x in targets]

    def points(block: Block) -> tuple[int, Sequence[int]]:
        return whole.size(reduced) * block.size(range(spatial)), range(spatial)

    def parts(block: Block) -> tuple[int, Sequence[int]]:
        return block.size(), reduced

    for area in blocks(outer, _POINTS, points):
        box = Block(whole.names, area.ranges[:spatial] + whole.ranges[spatial:])
        states: tuple[Array, ...] | None = None
        for block in blocks(box, _POINTS, parts):
            env = block.variables(symbols)
            loads = _loads(op, data, env, block)
            made = tuple(np.broadcast_to(x, block.shape) for x in evaluate_all(op.body, env, loads))
            if op.combiner is not None:
                made = reduce_states(op.combiner, made, reduced)
                made = made if states is None else merge(op.combiner, states, made)
            states = made
        assert states is not None
        _store(op, targets, states, box, spatial, env, loads)
    return [x.finish() for x in targets]


def _over_axes(x: Array, rank: int) -> Array:
    return x if x.ndim == rank else x.reshape((1,) * (rank - x.ndim) + x.shape)


def _store(
    op: TensorOp,
    targets: Sequence[Target],
    states: Sequence[Array],
    block: Block,
    spatial: int,
    env: Mapping[str, Any],
    loads: Mapping[int, Array],
) -> None:
    """Writes the states of a block; reduce axes are gone from what indices may use."""
    area = Block(block.names[:spatial], block.ranges[:spatial])

    def flat(x: Array) -> Array:
        return x.reshape(x.shape[:spatial]) if x.ndim == len(block.names) else x

    inner = {k: flat(x) if k in area.names else x for k, x in env.items() if k not in block.names[spatial:]}
    seen = {k: flat(x) for k, x in loads.items() if x.ndim < len(block.names) or all(n == 1 for n in x.shape[spatial:])}
    for target, state in zip(targets, states, strict=False):
        target.store(np.broadcast_to(flat(state), area.shape), area, inner, seen)


def _scan_op(op: ScanOp, data: Mapping[str, Array], symbols: Mapping[str, Any]) -> list[Array]:
    area = _whole(op.axes, symbols)
    targets = [Target(w, _shape(w.value.shape, symbols), None) for w in op.writes]
    env = area.variables(symbols)
    states: tuple[Array, ...] | None = None
    for step in range(int(evaluate(op.scan.extent, symbols))):
        now = env | {op.scan.name: np.asarray(step, np.int64)}
        loads = _loads(op, data, now, area)
        if states is None:
            states = evaluate_all(op.init, now, loads)
        before = {f"p{n}": x for n, x in enumerate(states)}
        states = evaluate_all(op.step, now | before, loads)
        after = {f"s{n}": x for n, x in enumerate(states)}
        results = evaluate_all(op.results, now | before | after, loads)
        for target, result in zip(targets, results, strict=True):
            target.store(np.broadcast_to(result, area.shape), area, now, loads)
    return [x.finish() for x in targets]
