"""What the units of a persistent launch do, as records that its kernel takes one after the other.

Unrolled models run thousands of tasks, every unit others. As data they cost 16 bytes each and no code, whatever their
number: the kernel has each member once. A record has a kind, a row of arguments and three numbers. Where a number
depends on a loop's counter or on a symbol, the kernel computes it: such a record has a *form* for its kind, of which
there are as many as there are different expressions. What depends on the unit alone is computed here, and units that do
the same have the same records.

A launch that makes calls has the records of each procedure behind its own. Where a call returns to depends on what the
unit does, so the places stand in a table in front of a unit's records; a call keeps its number in that table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from itertools import takewhile

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.errors import InternalError
from tilewright.interpret.evaluate import evaluate
from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, Interval, bounds_of
from tilewright.ir.events import first_counters
from tilewright.ir.expr import Const, Expr, Var, apply, const, static, substitute, variables
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Buffer,
    Copy,
    Fetch,
    Fork,
    GridCall,
    GridControl,
    Item,
    Launch,
    Near,
    Part,
    Phase,
    Program,
    Set,
    Signal,
    Task,
    Wait,
    copied_part,
)
from tilewright.ir.stack import STACK, STATUS, loops_around, sharing
from tilewright.ir.verify.calls import reached
from tilewright.ir.verify.tree import conditions_of, tasks_of

KIND_BITS = 10
"""Bits of a record's first number that say its kind; the row stands above them."""
OFFSET_BITS = 48
"""Bits of an argument that are its offset in a buffer; the buffer's number stands above them."""
FRAMED = 1 << 47
"""What marks an argument whose buffer is one of frames, in a launch that makes calls."""
REGIONAL = 1 << 46
"""What marks one whose buffer a region owns, in a launch whose forks run calls side by side."""
ASIDE = 1 << 45
"""What marks there one of the caller, which may be in another region."""
HERE, DEEPER, CALLER = range(3)
"""Whose frame an argument is in: that of the call at work, of one that it makes, of one that has made it elsewhere."""
ENDLESS = (1 << 31) - 1
TARGET_BITS = 16
"""Bits of a wait among others that say its counter; its target stands above them."""
TOGETHER = 3
"""Waits that a block does at a time: each look at a counter takes the second-level cache about half a microsecond."""


class Kind(IntEnum):
    """What a record makes a unit do, with the meaning of its numbers; kernels and forms follow."""

    END = 0
    BARRIER = 1  # of all units; whether only where a call has no room in the units' own memory
    SIGNAL = 2  # counter
    WAIT = 3  # counter, target, whether the block goes on after it: of several waits in a row the last
    WAITS = 4  # three times counter and target, see `_together`; the row is whether the block goes on after it
    JUMP = 5  # records to skip; all jumps count from the record behind them
    ENTER = 6  # loop depth; the row is the limit, 0 for none
    TEST = 7  # records to skip when no trip is left, trips, loop depth; the row is the condition, 0 for none
    NEXT = 8  # records to skip (back to the test), loop depth
    BRANCH = 9  # records to skip when the condition does not hold, a number that must not be 0; the row as above
    COPY = 10  # piece of the target, first byte of a piece, bytes; the row is source, target and bytes of a piece
    SET = 11  # number, its bytes; the row is the target
    FETCH = 12  # first byte, bytes, where in the unit's own memory; the row is the source
    FETCHED = 13  # what was fetched is there from here on
    ROOM = 14  # what the status is where as many calls are active as may be, 0, records to skip then as of LEAVE
    CALL = 15  # records to skip, number of the call in the text
    RETURN = 16
    TELL = 17  # number of what the other units are to do, -1: end
    LISTEN = 18
    FOLLOW = 19  # records to skip for units that do not lead their sub-grid
    FORK = 20  # records to skip where calls run one after another, `part_word`, records to skip as of LEAVE
    SPLIT = 21  # records to skip for units of other parts, for those of this part that do not lead it, `part_word`
    LEAVE = 22  # records to skip for the unit that leads the larger sub-grid from now on, 0, and for others
    JOINED = 23  # 0, 0, records to skip as of LEAVE if a call was too deep
    TURNS = 24  # records to skip for units that play none, first unit that is played, how many are
    AGAIN = 25  # records to skip (back) as long as there is another unit to play
    KERNEL = 26  # first task, count, stride; this is the first kernel's


Number = int | Expr
Array = npt.NDArray[np.int64]
Streams = list[list[Array]]
"""For each unit its records, four numbers each, in pieces."""


@attrs.frozen
class Form:
    """A kind of record of which the kernel computes some numbers: None for those that the record holds."""

    kind: int
    numbers: tuple[Expr | None, Expr | None, Expr | None]


@attrs.frozen
class Records:
    """All records of a launch.

    Args:
        code: a row of four 32-bit numbers per record.
        starts: for each unit, its first record.
        rows: arguments of calls and of other records: number of a buffer and offset. The first is not used. Behind
            those of a kernel that is `nearby` stand the offset of slices in the unit's own memory, how many of a task
            there are, and their bytes.
        kernels: names of the members, in the order of their kinds.
        forms: in the order of their kinds, which follow those of the kernels.
        buffers: in the order of their numbers, from 1; 0 is the launch's event buffer.
        depth: of nested loops.
        waiting: whether units wait for each other.
        limited: whether loops have limits that values say.
        kinds: that occur.
        sites: how many places stand in front of a unit's records, as 32-bit numbers of records behind its first one,
            the last one first: where each call in the text returns to, or where the unit does what unit 0 tells it.
        loops: around a call at most.
        status: number of the buffer in which calls that are too deep are reported; 0 where none is looked at.
        stack: number of the buffer of calls for which units have no room.
    """

    code: Array = attrs.field(eq=False)
    starts: tuple[int, ...]
    rows: tuple[int, ...]
    kernels: tuple[str, ...]
    forms: tuple[Form, ...]
    buffers: tuple[str, ...]
    depth: int
    waiting: bool
    limited: bool
    kinds: frozenset[int]
    sites: int = 0
    loops: int = 0
    status: int = 0
    stack: int = 0


def counter(depth: int) -> str:
    """The variable that stands for the counter of the loop at a depth, in the expressions of forms."""
    return f"counter{depth}"


def nearby(program: Program) -> frozenset[str]:
    """The kernels of which some tasks read slices in their unit's own memory."""
    return frozenset(x.kernel for x in tasks_of(program.parts) if x.near is not None)


@attrs.frozen
class Record:
    """A record with the row of its arguments and its numbers, as far as these are known."""

    kind: int
    numbers: tuple[Number, ...] = ()
    row: int = 0


@attrs.frozen
class Scope:
    """Where a record is: what the counters of the loops around it are called, and how many there are."""

    env: Mapping[str, Expr] = attrs.field(factory=dict)
    depth: int = 0

    def inside(self, name: str) -> Scope:
        """The scope in a loop with a counter of that name."""
        return Scope({**self.env, name: Var(counter(self.depth))}, self.depth + 1)


class Writer:
    """The records of a launch whose units take control together."""

    def __init__(self, launch: Launch, program: Program) -> None:
        self.launch, self.program, self.units = launch, program, launch.envelope.units
        self.called = {name: program.procedures[name].parts for name in reached(launch.body, program)}
        bodies = (launch.body, *self.called.values())
        self.kernels = tuple(dict.fromkeys(x.kernel for parts in bodies for x in tasks_of(parts)))
        self.loops = max(map(loops_around, bodies))
        self.sites = 0
        self.acting = self.units  # that take control and make calls
        self.kinds = {name: Kind.KERNEL + number for number, name in enumerate(self.kernels)}
        self.nearby = nearby(program)
        self.events = first_counters(launch)
        self.symbols: Bounds = {x.name: x.interval for x in program.symbols}
        self.rows: list[int] = [0]
        self.known_rows: dict[tuple[tuple[str, int] | int, ...], int] = {}
        self.buffers: dict[str, int] = {}
        self.forms: dict[Form, int] = {}
        self.depth = 0
        self.limited = False
        self.used: set[int] = set()
        self.calls: dict[int, str] = {}  # the procedure of each call in the text

    def write(self) -> Records:
        pieces: list[Array] = []
        known: dict[bytes, int] = {}
        starts, length = [], 0
        codes = self._codes()
        # After a call that was too deep nothing is known of what loops decide by.
        decides = next(conditions_of(self.launch.body), "") or self.called
        status = self._buffer(STATUS) if decides and STATUS in self.program.storage.buffers else 0
        stack = self._buffer(STACK) if self.called else 0
        for table, code in codes:
            key = code.tobytes()
            if key not in known:
                known[key] = length + len(table)
                length += len(table) + len(code)
                pieces += [table, code]
            starts.append(known[key])
        return Records(
            np.concatenate(pieces),
            tuple(starts),
            tuple(self.rows),
            self.kernels,
            tuple(self.forms),
            tuple(self.buffers),
            self.depth,
            bool(self.used & {Kind.BARRIER, Kind.WAIT, Kind.WAITS}),
            self.limited,
            frozenset(self.used),
            self.places,
            self.loops,
            status,
            stack,
        )

    def _codes(self) -> list[tuple[Array, Array]]:
        """Of each unit the table of its places, and its records."""
        bodies = [self._parts(self.launch.body, Scope(), outermost=True)]
        bodies += [self._parts(x, Scope()) for x in self.called.values()]
        ends = [self._packed(Record(Kind.END)), *[self._packed(Record(Kind.RETURN))] * len(self.called)]
        streams = ([[*x[unit], end] for x, end in zip(bodies, ends, strict=True)] for unit in range(self.units))
        return [self._linked(x) for x in streams]

    def _linked(self, streams: Sequence[Sequence[Array]]) -> tuple[Array, Array]:
        """The records of a unit with its calls linked, and the table that stands in front of them.

        Args:
            streams: what the launch does, and each procedure.
        """
        firsts = np.cumsum([0, *(length_of(x) for x in streams)])
        code = np.concatenate([piece for stream in streams for piece in stream])
        entries = dict(zip(self.called, firsts[1:].tolist(), strict=False))
        table = np.zeros((-(-self.places // 4), 4), np.int64)
        places = np.flatnonzero((code[:, 0] & ((1 << KIND_BITS) - 1)) == Kind.CALL) if self.called else ()
        for at in places:
            site = int(code[at, 2])
            code[at, 1] = entries[self.calls[site]] - (at + 1)
            table.reshape(-1)[-1 - site] = at + 1
        return table, code

    def _packed(self, record: Record, units: Array | None = None) -> Array:
        """The four numbers of a record on each of some units, or on all alike."""
        units = np.zeros(1, np.int64) if units is None else units
        packed = np.zeros((len(units), 4), np.int64)
        computed: list[Expr | None] = [None, None, None]
        for place, number in enumerate(record.numbers):
            if isinstance(number, int | Const):
                packed[:, place + 1] = number if isinstance(number, int) else number.value
            elif variables(number) <= {UNIT}:
                packed[:, place + 1] = evaluate(number, {UNIT: units})
            else:
                computed[place] = number
        kind = record.kind
        self.used.add(kind)
        if any(x is not None for x in computed):
            form = Form(kind, (computed[0], computed[1], computed[2]))
            kind = Kind.KERNEL + len(self.kernels) + self.forms.setdefault(form, len(self.forms))
        if kind >> KIND_BITS or record.row >> (31 - KIND_BITS):
            raise InternalError(
                f"launch {self.launch.name} has {len(self.kernels)} kernels, {len(self.forms)} forms and "
                f"{len(self.rows)} arguments, which is more than its records can name: it must be split."
            )
        packed[:, 0] = record.row << KIND_BITS | kind
        return packed

    @property
    def places(self) -> int:
        """How many entries tables have."""
        return self.sites

    def _parts(self, parts: Sequence[Part], scope: Scope, outermost: bool = False) -> Streams:
        streams: Streams = [[] for _ in range(self.units)]
        for number, part in enumerate(parts):
            match part:
                case Phase():
                    made = self._phase(part, scope)
                case GridCall():
                    made = self._call(part)
                case Fork():
                    made = [[] for _ in range(self.units)]
                    for call in part.calls:
                        for stream, added in zip(made, self._call(call), strict=True):
                            stream += [*added, *self._barrier()]
                case GridControl():
                    made = self._grid(part, scope)
            after = parts[number + 1] if number + 1 < len(parts) else None
            joined = (isinstance(part, GridCall) and part.late) or (isinstance(after, GridCall) and after.early)
            meet = not isinstance(part, GridControl | Fork) and not joined and (not outermost or after is not None)
            behind = self._barrier() if meet else []
            for stream, added in zip(streams, made, strict=True):
                stream += [*added, *behind]
        return streams

    def _barrier(self, deep: int = 0) -> list[Array]:
        """A barrier of all units; one unit alone does everything in order."""
        return [self._packed(Record(Kind.BARRIER, (deep,)))] if self.units > 1 else []

    def _site(self) -> int:
        """A place more in the table in front of the records."""
        self.sites += 1
        return self.sites - 1

    def _call(self, call: GridCall, caller: int = HERE) -> Streams:
        """Room for a call, copies of its arguments, the call, and copies of its results, behind which units meet.

        Args:
            caller: where the frame is that arguments come from and results go to.
        """
        site = self._site()
        self.calls[site] = call.procedure
        procedure = self.program.procedures[call.procedure]
        status = list(self.program.procedures).index(call.procedure) + 1
        before, records = self._packed(Record(Kind.ROOM, (status,))), Record(Kind.CALL, (0, site))
        given = self._copies(call.args, procedure.params, (caller, DEEPER))
        taken = self._copies(procedure.results, call.results, (DEEPER, caller))
        middle = [*self._before(call), self._packed(records)]
        return [[before, *x, *middle, *y] for x, y in zip(given, taken, strict=True)]

    def _before(self, call: GridCall) -> list[Array]:
        """What stands between a call and the copies of its arguments.

        Where no barrier has to, who is still on the way back from the last call may read in global memory where to.
        """
        return self._barrier(int(call.direct))

    def _copies(self, sources: Sequence[str], targets: Sequence[str], frames: tuple[int, int]) -> Streams:
        """Copies between the frame of a call and the next deeper one, large ones shared out among the units.

        Args:
            frames: where source and target are.
        """
        streams: Streams = [[] for _ in range(self.acting)]
        for source, target in zip(sources, targets, strict=True):
            value = self.program.storage.placements[source].value
            size = static(value.num_elements() * dtypes.size_of(value.dtype), f"size of {source}")
            row = self._addresses([(source, frames[0]), (target, frames[1])], size)
            parts = sharing(size, self.acting)
            for unit in range(parts if size else 0):
                part = Copy(source, target, part=const(unit), parts=parts)
                low, high = (int(evaluate(x, {})) for x in copied_part(part, const(size)))
                streams[unit].append(self._packed(Record(Kind.COPY, (0, low, high - low), row)))
        return streams

    def _phase(self, phase: Phase, scope: Scope) -> Streams:
        streams: Streams = [[] for _ in range(self.units)]
        for lane in phase.lanes:
            units = np.arange(lane.first, lane.first + bounds_of(lane.units, self.symbols).high)
            records = self._items(lane.items, scope)
            if not isinstance(lane.units, Const):
                there = apply("select", Var(UNIT) - lane.first < lane.units, const(1), const(0))
                records = [Record(Kind.BRANCH, (len(records), there)), *records]
            if records:
                table = np.stack([self._packed(x, units) for x in records], axis=1)
                for unit, rows in zip(units.tolist(), table, strict=True):
                    streams[unit].append(rows)
        return streams

    def _grid(self, control: GridControl, scope: Scope) -> Streams:
        if not control.counter:
            both = (self._parts(x, scope) for x in (control.body, control.orelse))
            return [self._branch(control, body, orelse) for body, orelse in zip(*both, strict=True)]
        enter, test, step = (self._packed(x) for x in self._loop(control, scope, 0))
        streams: Streams = []
        for body in self._parts(control.body, scope.inside(control.counter)):
            over, back = test.copy(), step.copy()
            over[0, 1], back[0, 1] = (length_of(body) + 1, -length_of(body) - 2)
            streams.append([enter, over, *body, back])
        return streams

    def _branch(self, control: GridControl, body: list[Array], orelse: list[Array]) -> list[Array]:
        over = [self._packed(Record(Kind.JUMP, (length_of(orelse),)))] if orelse else []
        row = self._row((control.condition,))
        return [self._packed(Record(Kind.BRANCH, (length_of(body) + len(over), 1), row)), *body, *over, *orelse]

    def _items(self, items: Sequence[Item], scope: Scope) -> list[Record]:
        records: list[Record] = []
        coming = False  # what was fetched
        for number, item in enumerate(items):
            if coming and (isinstance(item, BlockControl) or (isinstance(item, Task) and item.near is not None)):
                records.append(Record(Kind.FETCHED))
                coming = False
            match item:
                case Task():
                    numbers = self._numbers(scope, item.first, item.count, item.stride)
                    close = item.near or Near(0, 0)
                    size = self.program.kernels[item.kernel].choice.slice_bytes(close.count)
                    near = (close.offset, close.count, size) if item.kernel in self.nearby else ()
                    records.append(Record(self.kinds[item.kernel], numbers, self._row(item.args, *near)))
                case Fetch():
                    place = (*self._numbers(scope, item.first), item.bytes, item.offset)
                    records.append(Record(Kind.FETCH, place, self._row((item.source,))))
                    coming = True
                case Copy():
                    records.append(self._copy(item, scope))
                case Set():
                    value = self.program.storage.placements[item.target].value
                    numbers = (*self._numbers(scope, item.value), dtypes.size_of(value.dtype))
                    records.append(Record(Kind.SET, numbers, self._row((item.target,))))
                case Signal():
                    records.append(Record(Kind.SIGNAL, self._numbers(scope, self._counter(item))))
                case Wait() if not number or not isinstance(items[number - 1], Wait):
                    records += self._waits(_first_waits(items[number:]), scope)
                case BlockControl() if item.counter:
                    body = self._items(item.body, scope.inside(item.counter))
                    enter, test, step = self._loop(item, scope, len(body))
                    records += [enter, test, *body, step]
                case BlockControl():
                    body, orelse = self._items(item.body, scope), self._items(item.orelse, scope)
                    over = [Record(Kind.JUMP, (len(orelse),))] if orelse else []
                    row = self._row((item.condition,))
                    records += [Record(Kind.BRANCH, (len(body) + len(over), 1), row), *body, *over, *orelse]
        return [*records, Record(Kind.FETCHED)] if coming else records

    def _waits(self, waits: Sequence[Wait], scope: Scope) -> list[Record]:
        """Waits that stand in a row, several in a record where their numbers allow it."""
        each = [self._numbers(scope, self._counter(x), x.target) for x in waits]
        packed = [self._together(*x) for x in each]
        records = [Record(Kind.WAIT, (*x, 0)) for x, number in zip(each, packed, strict=True) if number is None]
        small = [x for x in packed if x is not None]
        records += [Record(Kind.WAITS, tuple(small[i : i + TOGETHER])) for i in range(0, len(small), TOGETHER)]
        last = records.pop()
        if last.kind == Kind.WAIT:
            return [*records, attrs.evolve(last, numbers=(*last.numbers[:2], 1))]
        return [*records, attrs.evolve(last, row=1)]

    def _together(self, counter: Number, target: Number) -> Number | None:
        """Both numbers of a wait as one, if they are small, and known but for the unit."""
        units: Bounds = {UNIT: Interval(0, self.units - 1)}
        for number, bits in ((counter, TARGET_BITS), (target, 31 - TARGET_BITS)):
            expr = const(number) if isinstance(number, int) else number
            if not variables(expr) <= {UNIT}:
                return None
            found = bounds_of(expr, units)
            if found.low < 0 or found.high >= 1 << bits:
                return None
        return counter + target * (1 << TARGET_BITS)

    def _loop(self, control: GridControl | BlockControl, scope: Scope, length: int) -> tuple[Record, ...]:
        """The records around the body of a loop: two in front of it, one behind."""
        depth = scope.depth
        self.depth = max(self.depth, depth + 1)
        row = self._row((control.condition,)) if control.condition else 0
        (trips,) = (ENDLESS,) if control.trip is None else self._numbers(scope, control.trip)
        test = Record(Kind.TEST, (length + 1, trips, depth), row)
        self.limited |= bool(control.limit)
        limit = self._row((control.limit,)) if control.limit else 0
        return Record(Kind.ENTER, (depth,), limit), test, Record(Kind.NEXT, (-length - 2, depth))

    def _copy(self, copy: Copy, scope: Scope) -> Record:
        value = self.program.storage.placements[copy.source].value
        size = static(value.num_elements() * dtypes.size_of(value.dtype), f"size of {copy.source}")
        low, high = copied_part(copy, const(size))
        numbers = self._numbers(scope, const(0) if copy.row is None else copy.row, low, high - low)
        return Record(Kind.COPY, numbers, self._row((copy.source, copy.target), size))

    def _counter(self, item: Signal | Wait) -> Expr:
        return item.index + self.events[item.event]

    def _numbers(self, scope: Scope, *numbers: Expr) -> tuple[Number, ...]:
        return tuple(substitute(x, scope.env) if scope.env else x for x in numbers)

    def _row(self, names: tuple[str, ...], *numbers: int) -> int:
        """The place of the addresses of some values, and of numbers behind them, among the rows."""
        return self._addresses([(x, HERE) for x in names], *numbers)

    def _addresses(self, places: Sequence[tuple[str, int]], *numbers: int) -> int:
        """As `_row`; behind each value stands in whose frame it is, if it is in one."""
        key: tuple[tuple[str, int] | int, ...] = (*places, *numbers)
        if key not in self.known_rows:
            self.known_rows[key] = len(self.rows)
            self.rows += [*(self._argument(*x) for x in places), *numbers]
        return self.known_rows[key]

    def _buffer(self, name: str) -> int:
        return self.buffers.setdefault(name, len(self.buffers) + 1)

    def _argument(self, name: str, frame: int) -> int:
        placement = self.program.storage.placements[name]
        buffer = self.program.storage.buffers[placement.buffer]
        if buffer.owner not in ("program", "frame", "region") or buffer.level != "global":
            raise InternalError(
                f"launch {self.launch.name}: {name!r} is at level {buffer.level}, owned by a {buffer.owner}, which is "
                "not generated for CUDA yet."
            )
        return self._buffer(buffer.name) << OFFSET_BITS | self._offset(placement.offset, buffer, frame)

    def _offset(self, offset: int, buffer: Buffer, frame: int) -> int:
        """An offset in a buffer with its marks."""
        if not self.called or buffer.owner != "frame":
            return offset
        return FRAMED | offset + (frame == DEEPER) * buffer.bytes


def _first_waits(items: Sequence[Item]) -> list[Wait]:
    """The waits that items begin with."""
    return [x for x in takewhile(lambda x: isinstance(x, Wait), items) if isinstance(x, Wait)]


def length_of(pieces: Sequence[Array]) -> int:
    """How many records there are."""
    return sum(map(len, pieces))
