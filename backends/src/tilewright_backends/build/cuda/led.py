"""The records of launches that unit 0 leads, and of those whose sub-grids each have a unit that leads them.

Where unit 0 alone leads, its records say all, and those of the other units what these do when they are told. Where
calls run side by side, any unit may come to lead others, so all take the same records, with what units are told to do
in between; a unit *plays* those of the whole grid that it stands for on its sub-grid. A fork stands there twice:

    FORK            -> one after another, where the sub-grid is not divided
    TELL BARRIER    the other units come here too
    SPLIT           -> the next call's part; who does not lead this one waits to be told something
    ... call ...    of the unit that leads the part
    LEAVE           this part is over; who leads the last one that is leads the larger sub-grid from now on
    SPLIT ... call ... LEAVE
    BARRIER JOINED  all units are back; where a call was too deep, so is this sub-grid's
    JUMP            -> behind the fork
    ... call ... call ...
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.ir.expr import Const, Var, const
from tilewright.ir.program import UNIT, Buffer, Fork, GridCall, GridControl, Lane, Launch, Part, Phase, Program, Task
from tilewright.ir.verify.calls import wide
from tilewright_backends.build.cuda.records import (
    ASIDE,
    CALLER,
    KIND_BITS,
    REGIONAL,
    Array,
    Kind,
    Record,
    Records,
    Scope,
    Streams,
    Writer,
    length_of,
)

PLAYED, RANK, UNITS = "grid.played", "grid.rank", "grid.units"
"""Variables of forms: the unit that is played, the place of this unit in its sub-grid, and how many units that has."""
CALL_BITS, WIDTH_BITS = 8, 8
"""Bits of a `part_word` that say which call of a fork it is, and how many there are; above them stands the place of the
first among all parts."""


def records_of(launch: Launch, program: Program) -> Records:
    """The records of a launch."""
    if launch.subgrids.levels:
        return ForkWriter(launch, program).write()
    return (LedWriter if launch.led else Writer)(launch, program).write()


def part_word(launch: Launch, width: int, call: int = 0) -> int:
    """A call of a fork of so many calls, as a record names it."""
    return call | width << CALL_BITS | launch.subgrids.before(width) << CALL_BITS + WIDTH_BITS


class LedWriter(Writer):
    """The records of a launch that unit 0 leads: its own say all, those of others what they do when they are told."""

    def __init__(self, launch: Launch, program: Program) -> None:
        super().__init__(launch, program)
        self.acting = 1
        self.runs: list[Streams] = []  # what the other units do of phases in a row

    @property
    def places(self) -> int:
        """See `Writer.places`: calls of unit 0, and runs of the others."""
        return max(self.sites, len(self.runs))

    def _codes(self) -> list[tuple[Array, Array]]:
        bodies = [self._parts(self.launch.body, Scope())]
        bodies += [self._parts(x, Scope()) for x in self.called.values()]
        over = [self._packed(Record(Kind.TELL, (-1,))), *self._barrier(), self._packed(Record(Kind.END))]
        ends = [over, *[[self._packed(Record(Kind.RETURN))]] * len(self.called)]
        leader = [[*x, *end] for (x,), end in zip(bodies, ends, strict=True)]
        listen = [*self._barrier(), self._packed(Record(Kind.LISTEN))]
        codes = [self._linked(leader)]
        for unit in range(self.units - 1):
            table = np.zeros((-(-self.places // 4), 4), np.int64)
            code, length = list(listen), length_of(listen)
            for number, run in enumerate(self.runs):
                table.reshape(-1)[-1 - number] = length
                length += length_of(run[unit]) + 1
                code += [*run[unit], self._packed(Record(Kind.JUMP, (-length,)))]
            codes.append((table, np.concatenate(code)))
        return codes

    def _parts(self, parts: Sequence[Part], scope: Scope, outermost: bool = False) -> Streams:
        """The records of who leads; what the others do is kept where it stands apart (`_told`)."""
        stream: list[Array] = []
        for at, part in enumerate(parts):
            match part:
                case GridControl():
                    stream += self._grid(part, scope)[0]
                case GridCall():
                    stream += self._call(part)[0]
                case Fork():
                    stream += self._fork(part)
                case Phase() if not wide(part):
                    stream += self._alone(part, scope)
                case Phase():
                    first, last = not at or not wide(parts[at - 1]), at + 1 == len(parts) or not wide(parts[at + 1])
                    stream += self._told(part, scope, first, last)
        return [stream]

    def _fork(self, fork: Fork) -> list[Array]:
        return [x for call in fork.calls for x in self._call(call)[0]]

    def _alone(self, part: Phase, scope: Scope) -> list[Array]:
        """A phase in which nobody but who leads does something."""
        return self._phase(part, scope)[0]

    def _told(self, part: Phase, scope: Scope, first: bool, last: bool) -> list[Array]:
        """A phase of all units, the first or the last of some in a row."""
        stream: list[Array] = []
        if first:
            stream += [self._packed(Record(Kind.TELL, (len(self.runs),))), *self._barrier()]
            self.runs.append([[] for _ in range(self.units - 1)])
        mine, *others = self._phase(part, scope)
        for run, records in zip(self.runs[-1], others, strict=True):
            run += [*records, *self._barrier()]
        return [*stream, *mine, *self._barrier()]

    def _before(self, call: GridCall) -> list[Array]:
        return []


class ForkWriter(LedWriter):
    """The records of a launch whose forks run calls side by side: one list for all units."""

    @property
    def places(self) -> int:
        """See `Writer.places`."""
        return self.sites

    def _codes(self) -> list[tuple[Array, Array]]:
        follow, over = self._packed(Record(Kind.FOLLOW)), self._packed(Record(Kind.TELL, (-1,)))
        end, listen = self._packed(Record(Kind.END)), self._packed(Record(Kind.LISTEN, (-3,)))
        (body,) = self._parts(self.launch.body, Scope())
        # Who leaves a part meets the others of the larger sub-grid, then waits to be told something.
        waiting = [*self._barrier(), *self._barrier(), listen]
        streams = [[follow, *body, over, *self._barrier(), end, *waiting]]
        for parts in self.called.values():
            (body,) = self._parts(parts, Scope())
            streams.append([*body, self._packed(Record(Kind.RETURN))])
        return [self._linked(streams)] * self.units

    def _linked(self, streams: Sequence[Sequence[Array]]) -> tuple[Array, Array]:
        """See `Writer._linked`; places and jumps of units that lead or do not are filled in too."""
        table, code = super()._linked(streams)
        kinds = code[:, 0] & ((1 << KIND_BITS) - 1)
        (listen,) = np.flatnonzero(kinds == Kind.LISTEN)
        behind = np.arange(len(code)) + 1
        leaving = (Kind.LEAVE, Kind.ROOM, Kind.JOINED, Kind.FORK)
        waiting = [(Kind.FOLLOW, 1, listen - 1), (Kind.SPLIT, 2, listen - 1), *((x, 3, listen - 2) for x in leaving)]
        for kind, column, target in waiting:
            code[kinds == kind, column] = target - behind[kinds == kind]
        entries = table.reshape(-1)
        for at in np.flatnonzero((kinds == Kind.TELL) & (code[:, 1] >= 0)):
            entries[-1 - code[at, 1]] = at + 2  # behind the barrier
        return table, code

    def _alone(self, part: Phase, scope: Scope) -> list[Array]:
        alone = Scope({**scope.env, UNIT: const(0)}, scope.depth)
        return [self._packed(x) for lane in part.lanes for x in self._items(lane.items, alone)]

    def _told(self, part: Phase, scope: Scope, first: bool, last: bool) -> list[Array]:
        tell = [self._packed(Record(Kind.TELL, (self._site(),))), *self._barrier()] if first else []
        played = [self._packed(x) for lane in part.lanes for x in self._lane(lane, scope)]
        return [*tell, *played, *self._barrier(), *[self._packed(Record(Kind.FOLLOW))] * last]

    def _lane(self, lane: Lane, scope: Scope) -> list[Record]:
        """What a unit does for all units of a lane that it plays."""
        items, first = lane.items, lane.items[0] if len(lane.items) == 1 else None
        if isinstance(first, Task) and _dealt(lane, first):
            turns = (lane.units - 1 - Var(RANK) + Var(UNITS)) // Var(UNITS)
            numbers = (Var(RANK), turns, Var(UNITS))
            return [Record(self.kinds[first.kernel], numbers, self._row(first.args))]
        unit = const(lane.first) if lane.units == const(1) else Var(PLAYED)
        inside = self._items(items, Scope({**scope.env, UNIT: unit}, scope.depth))
        over = Record(Kind.TURNS, (len(inside) + 1, lane.first, *self._numbers(scope, lane.units)))
        return [over, *inside, Record(Kind.AGAIN, (-len(inside) - 1,))] if inside else []

    def _fork(self, fork: Fork) -> list[Array]:
        """Calls side by side, and the same one after another."""
        width = len(fork.calls)
        serial = super()._fork(fork)
        if width not in self.launch.subgrids.widths:
            return serial
        told = [self._packed(Record(Kind.TELL, (self._site(),))), *self._barrier()]
        parts: list[Array] = []
        for number, call in reversed(list(enumerate(fork.calls))):
            part = [*self._call(call, CALLER)[0], self._packed(Record(Kind.LEAVE, (length_of(parts),)))]
            word = part_word(self.launch, width, number)
            parts = [self._packed(Record(Kind.SPLIT, (length_of(part), 0, word))), *part, *parts]
        joined = [*self._barrier(), self._packed(Record(Kind.JOINED))]
        apart = [*told, *parts, *joined, self._packed(Record(Kind.JUMP, (length_of(serial),)))]
        return [self._packed(Record(Kind.FORK, (length_of(apart), part_word(self.launch, width)))), *apart, *serial]

    def _offset(self, offset: int, buffer: Buffer, frame: int) -> int:
        mark = REGIONAL if buffer.owner == "region" else 0
        if frame == CALLER and buffer.owner in ("frame", "region"):
            mark |= ASIDE
        return super()._offset(offset, buffer, frame) | mark


def _dealt(lane: Lane, task: Task) -> bool:
    """Whether each unit of a lane runs the task of its own number."""
    one = task.first == Var(UNIT) and task.count == const(1) and task.near is None
    return one and lane.first == 0 and isinstance(lane.units, Const)
