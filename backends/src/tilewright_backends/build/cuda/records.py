"""What the units of a persistent launch do, as records that its kernel takes one after the other.

Unrolled models run thousands of tasks, every unit others. As data they cost 16 bytes each and no code, whatever their
number: the kernel has each member once. A record has a kind, a row of arguments and three numbers. Where a number
depends on a loop's counter or on a symbol, the kernel computes it: such a record has a *form* for its kind, of which
there are as many as there are different expressions. What depends on the unit alone is computed here, and units that do
the same have the same records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum

import attrs

from tilewright.errors import InternalError
from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import Bounds, bounds_of
from tilewright.ir.events import first_counters
from tilewright.ir.expr import Const, Expr, Var, apply, const, substitute, variables
from tilewright.ir.program import UNIT, BlockControl, GridControl, Item, Launch, Phase, Program, Signal, Task, Wait
from tilewright.ir.verify.tree import tasks_of

KIND_BITS = 10
"""Bits of a record's first number that say its kind; the row stands above them."""
OFFSET_BITS = 48
"""Bits of an argument that are its offset in a buffer; the buffer's number stands above them."""
ENDLESS = (1 << 31) - 1


class Kind(IntEnum):
    """What a record makes a unit do, with the meaning of its numbers; kernels and forms follow."""

    END = 0
    BARRIER = 1  # of all units
    SIGNAL = 2  # counter
    WAIT = 3  # counter, target, whether the block goes on after it: of several waits in a row the last
    JUMP = 4  # records to skip; all jumps count from the record behind them
    ENTER = 5  # loop depth
    TEST = 6  # records to skip when no trip is left, trips, loop depth; the row is the condition, 0 for none
    NEXT = 7  # records to skip (back to the test), loop depth
    BRANCH = 8  # records to skip when the condition does not hold, a number that must not be 0; the row as above
    KERNEL = 9  # first task, count, stride; this is the first kernel's


Numbers = tuple[Expr, Expr, Expr]
Packed = tuple[int, int, int, int]


@attrs.frozen
class Form:
    """A kind of record of which the kernel computes some numbers: None for those that the record holds."""

    kind: int
    numbers: tuple[Expr | None, Expr | None, Expr | None]


@attrs.frozen
class Records:
    """All records of a launch.

    Args:
        code: four 32-bit numbers per record.
        starts: for each unit, its first record.
        rows: arguments of the calls: number of a buffer and offset. The first is not used.
        kernels: names of the members, in the order of their kinds.
        forms: in the order of their kinds, which follow those of the kernels.
        buffers: in the order of their numbers, from 1; 0 is the launch's event buffer.
        depth: of nested loops.
        waiting: whether units wait for each other.
    """

    code: tuple[Packed, ...]
    starts: tuple[int, ...]
    rows: tuple[int, ...]
    kernels: tuple[str, ...]
    forms: tuple[Form, ...]
    buffers: tuple[str, ...]
    depth: int
    waiting: bool


def counter(depth: int) -> str:
    """The variable that stands for the counter of the loop at a depth, in the expressions of forms."""
    return f"counter{depth}"


def records_of(launch: Launch, program: Program) -> Records:
    """The records of a launch."""
    return _Writer(launch, program).write()


def _three(numbers: Sequence[Expr]) -> Numbers:
    padded = (*numbers, const(0), const(0), const(0))
    return padded[0], padded[1], padded[2]


@attrs.frozen
class _Record:
    kind: int
    numbers: Numbers = attrs.field(converter=_three, factory=lambda: _three(()))
    row: int = 0


@attrs.frozen
class _Scope:
    """Where a record is: its unit, what the counters of the loops around it are called, and how many there are."""

    unit: int
    env: Mapping[str, Expr] = attrs.field(factory=dict)
    depth: int = 0


class _Writer:
    def __init__(self, launch: Launch, program: Program) -> None:
        self.launch, self.program = launch, program
        self.kernels = tuple(dict.fromkeys(x.kernel for x in tasks_of(launch.body)))
        self.kinds = {name: Kind.KERNEL + number for number, name in enumerate(self.kernels)}
        self.events = first_counters(launch)
        self.symbols: Bounds = {x.name: x.interval for x in program.symbols}
        self.rows: list[int] = [0]
        self.known_rows: dict[tuple[str, ...], int] = {}
        self.buffers: dict[str, int] = {}
        self.forms: dict[Form, int] = {}
        self.depth = 0
        self.waiting = False

    def write(self) -> Records:
        code: list[Packed] = []
        known: dict[tuple[Packed, ...], int] = {}
        starts = []
        for unit in range(self.launch.envelope.units):
            records = [*self._parts(self.launch.body, _Scope(unit), outermost=True), _Record(Kind.END)]
            packed = tuple(self._packed(x, unit) for x in records)
            if packed not in known:
                known[packed] = len(code)
                code += packed
            starts.append(known[packed])
        kernels, forms, buffers = self.kernels, tuple(self.forms), tuple(self.buffers)
        rows = tuple(self.rows)
        return Records(tuple(code), tuple(starts), rows, kernels, forms, buffers, self.depth, self.waiting)

    def _packed(self, record: _Record, unit: int) -> Packed:
        known = [_known(x, unit) for x in record.numbers]
        kind = record.kind
        self.waiting |= kind in (Kind.BARRIER, Kind.WAIT)
        if None in known:
            a, b, c = (x if n is None else None for x, n in zip(record.numbers, known, strict=True))
            form = self.forms.setdefault(Form(kind, (a, b, c)), len(self.forms))
            kind = Kind.KERNEL + len(self.kernels) + form
        if kind >> KIND_BITS or record.row >> (31 - KIND_BITS):
            raise InternalError(
                f"launch {self.launch.name} has {len(self.kernels)} kernels, {len(self.forms)} forms and "
                f"{len(self.rows)} arguments, which is more than its records can name: it must be split."
            )
        first, second, third = (0 if x is None else x for x in known)
        return record.row << KIND_BITS | kind, first, second, third

    def _parts(
        self, parts: Sequence[Phase | GridControl], scope: _Scope, outermost: bool = False
    ) -> Iterator[_Record]:
        for number, part in enumerate(parts):
            if isinstance(part, GridControl):
                yield from self._control(part, scope)
                continue
            yield from self._phase(part, scope)
            if not outermost or number < len(parts) - 1:
                yield _Record(Kind.BARRIER)

    def _phase(self, phase: Phase, scope: _Scope) -> Iterator[_Record]:
        for lane in phase.lanes:
            number = scope.unit - lane.first
            if not 0 <= number < bounds_of(lane.units, self.symbols).high:
                continue
            inside = list(self._items(lane.items, scope))
            if not isinstance(lane.units, Const):
                there = apply("select", const(number) < lane.units, const(1), const(0))
                yield _Record(Kind.BRANCH, (const(len(inside)), there))
            yield from inside

    def _items(self, items: Sequence[Item], scope: _Scope) -> Iterator[_Record]:
        for number, item in enumerate(items):
            match item:
                case Task():
                    numbers = (item.first, item.count, item.stride)
                    yield self._record(self.kinds[item.kernel], scope, numbers, self._row(item.args))
                case Signal():
                    yield self._record(Kind.SIGNAL, scope, (self._counter(item),))
                case Wait():
                    last = number + 1 == len(items) or not isinstance(items[number + 1], Wait)
                    numbers = (self._counter(item), item.target, const(int(last)))
                    yield self._record(Kind.WAIT, scope, numbers)
                case BlockControl():
                    yield from self._control(item, scope)

    def _control(self, control: GridControl | BlockControl, scope: _Scope) -> Iterator[_Record]:
        row = self._row((control.condition,)) if control.condition else 0
        if not control.counter:
            body, orelse = self._inside(control.body, scope), self._inside(control.orelse, scope)
            over = [_Record(Kind.JUMP, (const(len(orelse)),))] if orelse else []
            yield _Record(Kind.BRANCH, (const(len(body) + len(over)), const(1)), row)
            yield from (*body, *over, *orelse)
            return
        depth = scope.depth
        self.depth = max(self.depth, depth + 1)
        inner = _Scope(scope.unit, {**scope.env, control.counter: Var(counter(depth))}, depth + 1)
        body = self._inside(control.body, inner)
        trips = const(ENDLESS) if control.trip is None else control.trip
        yield _Record(Kind.ENTER, (const(depth),))
        yield self._record(Kind.TEST, scope, (const(len(body) + 1), trips, const(depth)), row)
        yield from body
        yield _Record(Kind.NEXT, (const(-len(body) - 2), const(depth)))

    def _inside(self, body: Sequence[Phase | GridControl | Item], scope: _Scope) -> list[_Record]:
        parts = [x for x in body if isinstance(x, Phase | GridControl)]
        items = [x for x in body if not isinstance(x, Phase | GridControl)]
        return [*self._parts(parts, scope), *self._items(items, scope)]

    def _counter(self, item: Signal | Wait) -> Expr:
        return item.index + self.events[item.event]

    def _record(self, kind: int, scope: _Scope, numbers: Sequence[Expr], row: int = 0) -> _Record:
        return _Record(kind, tuple(substitute(x, scope.env) for x in numbers), row)

    def _row(self, names: tuple[str, ...]) -> int:
        """The place of the addresses of some values among the rows."""
        if names not in self.known_rows:
            self.known_rows[names] = len(self.rows)
            self.rows += map(self._argument, names)
        return self.known_rows[names]

    def _argument(self, name: str) -> int:
        placement = self.program.storage.placements[name]
        buffer = self.program.storage.buffers[placement.buffer]
        if buffer.owner not in ("program", "frame") or buffer.level != "global":
            raise InternalError(
                f"launch {self.launch.name}: {name!r} is at level {buffer.level}, owned by a {buffer.owner}, which is "
                "not generated for CUDA yet."
            )
        number = self.buffers.setdefault(buffer.name, len(self.buffers) + 1)
        return number << OFFSET_BITS | placement.offset


def _known(expr: Expr, unit: int) -> int | None:
    """The number that an expression is on a unit, if nothing else decides it."""
    if isinstance(expr, Const):
        return int(expr.value)
    return int(evaluate(expr, {UNIT: unit})) if variables(expr) <= {UNIT} else None
