"""A module without control flow that does what a run of another one did: every trip and the sides that were taken.

The bound on what control flow may cost. Conditions are followed with the interpreter; only what they depend on is
computed. The number of a trip stays a value, so that trips share their kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np

from tilewright.frontend.legalize.builder import Builder
from tilewright.frontend.names import Names
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import Const, Expr, as_expr, eq, select
from tilewright.ir.module import Constant, Function, Module
from tilewright.ir.ops import Call, If, Location, Loop, Op, Region, Value
from tilewright.rewrites.live import live
from tilewright.rewrites.rename import with_values
from tilewright.testing.models.net import Array


@attrs.frozen
class Taken:
    """What a run did.

    Args:
        trips: of all loops together.
        then: branches that took their first side.
        orelse: those that took the second.
        calls: of functions.
    """

    trips: int
    then: int
    orelse: int
    calls: int

    def __str__(self) -> str:
        return f"{self.trips} trips, {self.then} + {self.orelse} branches, {self.calls} calls"


def traced(module: Module, feeds: Sequence[Array]) -> tuple[Module, Taken]:
    """The straight module for the decisions of one run, and how many there were.

    Args:
        feeds: the inputs, in order.
    """
    tracer = _Tracer(module, feeds)
    main = module.main.body
    results = tracer.region(main, {x.name: x for x in main.params})
    body = live(Region(main.params, tuple(tracer.ops), tuple(map(tracer.own, results))))
    used = {x.name for x in body.captured}
    constants = {name: x for name, x in tracer.builder.constants.items() if name in used}
    counts = tracer.counts
    taken = Taken(counts["trips"], counts["then"], counts["orelse"], counts["calls"])
    functions = {module.entry: Function(module.entry, body)}
    return attrs.evolve(module, functions=functions, constants=constants), taken


class _Tracer:
    def __init__(self, module: Module, feeds: Sequence[Array]) -> None:
        self.module = module
        self.ops: list[Op] = []
        self.counts: Counter[str] = Counter()
        self.names = Names()
        for name in (*module.constants, *(x.name for x in module.main.body.params)):
            self.names.reserve(name)
        self.builder = Builder(self.names, dict(module.constants))
        self._known: dict[str, Array] = {x.name: a for x, a in zip(module.main.body.params, feeds, strict=True)}
        self._makers: dict[str, Op] = {}
        self._numbers: dict[int, Value] = {}
        self._results: set[str] = set()

    def region(self, region: Region, outer: Mapping[str, Value]) -> list[Value]:
        """Writes a region out; returns what stands for its results."""
        stands = dict(outer)

        def of(x: Value) -> Value:
            return stands.get(x.name, x)

        for op in region.ops:
            match op:
                case If():
                    taken = bool(self.array(of(op.condition)))
                    self.counts["then" if taken else "orelse"] += 1
                    made = self.region(op.then if taken else op.orelse, stands)
                case Loop():
                    made = self._loop(op, stands)
                case Call():
                    self.counts["calls"] += 1
                    body = self.module.functions[op.function].body
                    given = zip((x.name for x in body.params), map(of, op.inputs), strict=True)
                    made = self.region(body, dict(given))
                case _:
                    made = self._straight(op, stands)
            stands.update(zip((x.name for x in op.outputs if x is not None), made, strict=True))
        return [of(x) for x in region.results]

    def _straight(self, op: Op, stands: Mapping[str, Value]) -> list[Value]:
        new = {x.name: attrs.evolve(x, name=self.names.fresh(x.name)) for x in op.outputs if x is not None}
        names = {**stands, **new}
        made = attrs.evolve(with_values(op, lambda x: names.get(x.name, x)), name=next(iter(new.values())).name)
        self._append([made])
        return list(new.values())

    def _append(self, ops: Iterable[Op]) -> None:
        for op in ops:
            self.ops.append(op)
            self._makers.update((x.name, op) for x in op.outputs if x is not None)

    def _loop(self, op: Loop, outer: Mapping[str, Value]) -> list[Value]:
        def of(x: Value) -> Value:
            return outer.get(x.name, x)

        limit = int(op.count.value) if isinstance(op.count, Const) else None
        if op.trip is not None:
            limit = int(self.array(of(op.trip)))
        going = op.condition is None or bool(self.array(of(op.condition)))
        states, rows = list(map(of, op.carried)), list[list[Value]]()
        endless = op.body.results[0] == op.body.params[1]
        number = 0
        while going and (limit is None or number < limit):
            given = [self._number(number), self._true(), *states]
            inner = {**outer, **dict(zip((x.name for x in op.body.params), given, strict=True))}
            on, *results = self.region(op.body, inner)
            states = results[: len(states)]
            rows.append(results[len(states) :])
            going = endless or bool(self.array(on))
            number += 1
        self.counts["trips"] += number
        columns = zip(*rows, strict=True) if rows else [()] * (len(op.outputs) - len(states))
        stacks = zip(columns, op.outputs[len(states) :], strict=True)
        return [*states, *(self._stacked(column, like, op.loc) for column, like in stacks)]

    def _stacked(self, rows: Sequence[Value], like: Value, loc: Location) -> Value:
        """Rows along a new first dimension; zeros where there are fewer of them."""
        if not rows:
            self.builder.hint = like.name
            return self.builder.constant(np.zeros(like.static_shape(), like.dtype)).value
        parts = [self.builder.tensor(x) for x in rows]
        self.builder.ops, self.builder.loc, self.builder.hint = [], loc, like.name

        def body(i: Expr, *at: Expr) -> Expr:
            found: Expr | None = None
            for n, x in reversed(list(enumerate(parts))):
                here = x.guarded(eq(i, as_expr(n)), tuple(at)) if len(parts) > 1 else x[tuple(at)]
                found = here if found is None else select(as_expr(i) <= n, here, found)
            assert found is not None
            return found

        made = self.builder.compute(like.dtype, like.extents, body).value
        self._append(self.builder.ops)
        return made

    def _number(self, number: int) -> Value:
        if number not in self._numbers:
            self.builder.hint = "trip"
            self._numbers[number] = self.builder.constant(np.asarray(number), str(number)).value
        return self._numbers[number]

    def _true(self) -> Value:
        self.builder.constants.setdefault("going.true", Constant(np.asarray(True)))
        return self.builder.constants["going.true"].value("going.true")

    def own(self, value: Value) -> Value:
        """A result that an operator of its own writes."""
        if value.name in self._makers and value.name not in self._results:
            self._results.add(value.name)
            return value
        source = self.builder.tensor(value)
        self.builder.ops, self.builder.loc, self.builder.hint = [], Location(), f"{value.name}_result"
        made = self.builder.compute(value.dtype, value.extents, lambda *i: source.at(i)).value
        self._append(self.builder.ops)
        return made

    def array(self, value: Value) -> Array:
        """The contents of a value that decides something."""
        constant = self.builder.constants.get(value.name)
        if constant is not None:
            return constant.data
        if value.name not in self._known:
            todo = [value.name]
            needed: dict[str, Op] = {}
            for name in todo:
                op = self._makers[name]
                needed[op.name] = op
                missing = (x.name for x in op.inputs if x is not None and x.name not in self.builder.constants)
                todo += [x for x in missing if x not in self._known and self._makers[x].name not in needed]
            for op in self.ops:
                if op.name in needed:
                    self._compute(op)
        return self._known[value.name]

    def _compute(self, op: Op) -> None:
        constants = self.builder.constants
        params = tuple(x for x in op.inputs if x is not None and x.name not in constants)
        results = tuple(x for x in op.outputs if x is not None)
        used = {x.name: constants[x.name] for x in op.inputs if x is not None and x.name in constants}
        alone = Module({"main": Function("main", Region(params, (op,), results))}, used)
        found = interpret(alone, [self._known[x.name] for x in params])
        self._known.update(zip((x.name for x in results), found, strict=True))
