"""Emits a stage that has fewer points than the block has threads: teams of threads share the reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from tvm import tirx

from tilewright.ir.expr import Expr, const, loads, minimum, variables
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import both, count, decompose
from tilewright_backends.emit.gpu.states import States, cell, from_cell, to_cell
from tilewright_backends.emit.gpu.teams import Teams, merge
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import Point, combine
from tilewright_backends.lower.types import Prim

_UNROLL = 16
"""Steps of a thread up to which they are written out, so that their loads overlap."""
_EARLY = 4
"""Operands of an epilogue that are loaded before the reduction: each takes a register until it is used."""

Place = tuple[dict[str, Expr], Prim | None]
"""The values of axes at a point, and whether it is one (None: always)."""
MakePoint = Callable[[FlatSpec, Mapping[str, Expr], Mapping[int, Prim]], Point]


class TeamStage:
    """A stage whose reductions are shared; `teams.points` are those of its box.

    Args:
        place: the place of a number.
        point_of: a specification's point at values of axes, with what is loaded already.

    Attributes:
        ahead: registers with what the thread's steps read, by slot.
    """

    def __init__(
        self, body: GpuBody, spec: FlatSpec, teams: Teams, place: Callable[[Expr], Place], point_of: MakePoint
    ) -> None:
        assert spec.combiner is not None
        self.body, self.spec, self.teams, self.combiner, self.point_of = body, spec, teams, spec.combiner, point_of
        self.lane, which = self.at = teams.split(body)
        mine = both(body.below(which, teams.points), body.below(self.lane, teams.lanes))
        number = which if mine is None else body.hold(minimum(which, const(teams.points - 1)), "number")
        self.axes, inside = place(number)
        self.inside = both(mine, inside)
        self.trips = -(-count(spec.reduce) // teams.lanes)
        self.ahead: dict[int, Prim] = {}

    def load_ahead(self, most: int) -> int:
        """Loads what the steps read of memory, while other stages are still to come, into at most so many registers.

        Returns:
            How many it took.
        """
        body, spec = self.body, self.spec
        reads = [(i, x) for i, x in enumerate(spec.reads[: spec.body_reads]) if not loads(x.address, x.guard)]
        slots = [i for i, x in reads if x.value.name in body.params]
        if not slots or self.trips > _UNROLL or self.trips * len(slots) > most:
            return 0
        for slot in slots:
            self.ahead[slot] = body.registers(cell(spec.reads[slot].value.dtype), self.trips, "ahead")
        with self._inside(), body.loop("step", self.trips, "unrolled") as trip:
            number = body.hold(trip * self.teams.lanes + self.lane, "r")
            with self._when(body.below(number, count(spec.reduce))):
                point = self._point(number, {})
                for slot, registers in self.ahead.items():
                    value = to_cell(point.load(slot), spec.reads[slot].value.dtype)
                    body.store(registers, body.index(trip), value)
        return self.trips * len(slots)

    def run(self, tables: Sequence[Prim]) -> None:
        """The statements.

        Args:
            tables: shared memory for a state of each thread.
        """
        body, spec = self.body, self.spec
        early = {} if self.inside is not None else self._early()
        states = States(body, self.combiner.dtypes)
        states.write([types.literal(x.value, types.carrier(x.dtype)) for x in self.combiner.identity])
        with self._inside():
            self._accumulate(states)
        merge(body, self.combiner, states, self.teams, self.at, tables)
        first = body.index(self.lane < 1)
        with body.when(first if self.inside is None else tirx.And(first, self.inside)):
            point = self.point_of(spec, self.axes, early)
            point.give({f"s{i}": x for i, x in enumerate(states.read())})
            for store in spec.stores:
                point.store(store)

    def _when(self, condition: Prim | None) -> AbstractContextManager[None]:
        return nullcontext() if condition is None else self.body.when(condition)

    def _inside(self) -> AbstractContextManager[None]:
        return self._when(self.inside)

    def _point(self, number: Expr, loaded: Mapping[int, Prim]) -> Point:
        """Step `number` of the reduction."""
        return self.point_of(self.spec, {**self.axes, **decompose(number, self.spec.reduce, self.body)}, loaded)

    def _early(self) -> dict[int, Prim]:
        """What the results are finished with, by slot."""
        spec, point = self.spec, self.point_of(self.spec, self.axes, {})
        found: dict[int, Prim] = {}
        for slot, access in list(enumerate(spec.reads))[spec.body_reads :]:
            steered = loads(access.address, access.guard)
            same = not variables(access.address, access.guard) & {x.name for x in spec.reduce}
            if len(found) < _EARLY and same and not steered:
                found[slot] = point.load(slot)
        return found

    def _accumulate(self, states: States) -> None:
        """The lane's steps of the reduction."""
        body, spec, total = self.body, self.spec, count(self.spec.reduce)
        with body.loop("step", self.trips, "unrolled" if self.trips <= _UNROLL else "serial") as trip:
            number = body.hold(trip * self.teams.lanes + self.lane, "r")
            with self._when(body.below(number, total)):
                place = body.index(trip)
                known = {
                    slot: from_cell(body, registers[place], spec.reads[slot].value.dtype)
                    for slot, registers in self.ahead.items()
                }
                point = self._point(number, known)
                new = [point.value(x) for x in spec.body]
                states.write(combine(body, body.semantics, self.combiner, states.read(), new))
