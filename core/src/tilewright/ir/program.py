"""Program: what runs where, in which order, on which storage. The fourth form.

A host tree of launches and control; a launch is an envelope and a list of phases; a phase says what each unit (vEU)
does. In the papers' words the tasks of a phase are rOperators cut into rTasks, a launch is an rProgram, the tree is
the uProgram.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import attrs

from tilewright.ir.choice import Packing, Resources, TileChoice
from tilewright.ir.expr import Const, Expr, Var, const, minimum
from tilewright.ir.group import Group, Level
from tilewright.ir.module import Constant, Symbol, frozen_mapping
from tilewright.ir.ops import Access, Axis, Value
from tilewright.ir.subgrids import Subgrids

UNIT = "unit"
"""Name of the variable that stands for the unit's number in the indices of tasks."""

_LINE = 64
"""Bytes that parts of a copy, and what stands in front of a unit's own memory, are multiples of."""


@attrs.frozen
class Kernel:
    """A group with the tiles chosen for it: what a task runs.

    Args:
        name: unique in the program; the code's symbol derives from it.
        group: its operators, with the value names of the first place where it is used.
        choice: recipe and parameters.
        params: the values that the code takes pointers to, inputs before outputs. A packed operand stands in
            place of the value it was packed from.
        packed: (slot of the kernel's specification, parameter) for each packed operand.
        sliced: for each of the choice's slices the number of the parameter that it is a part of.
        symbols: those whose values the code takes, after the pointers.
    """

    name: str
    group: Group
    choice: TileChoice
    params: tuple[Value, ...]
    packed: tuple[tuple[int, Value], ...] = ()
    symbols: tuple[Symbol, ...] = ()
    sliced: tuple[int, ...] = ()


@attrs.frozen
class Near:
    """Slices in a unit's own memory: of the kernel's choice the first `count`, one behind the other.

    Those of the first task stand from byte `offset` on, those of the next tasks follow. Each takes the bytes that its
    choice says, even if the last task's has fewer.
    """

    offset: int
    count: int


@attrs.frozen
class Task:
    """Runs tasks `first, first + stride, …` (`count` of them) of a kernel on a unit, one after the other.

    `args` names the actual values, in the order of the kernel's parameters. The expressions may use `unit`, the
    counters of enclosing loops and the program's symbols.

    `near` says which slices the tasks find in the unit's own memory, and where; they read all else in the operands.
    """

    kernel: str
    args: tuple[str, ...]
    first: Expr
    count: Expr = attrs.field(factory=lambda: const(1))
    stride: Expr = attrs.field(factory=lambda: const(1))
    near: Near | None = None


@attrs.frozen
class Signal:
    """Adds one to `event[index]` after all earlier items of this unit, with release order."""

    event: str
    index: Expr


@attrs.frozen
class Wait:
    """Holds the unit until `event[index] >= target`, with acquire order."""

    event: str
    index: Expr
    target: Expr


@attrs.frozen
class Copy:
    """Copies a part of the bytes of one value into another, on a unit.

    Args:
        row: which piece of the target, of as many elements as the source has, is written; None when it is all of it.
        part: which of `parts` equal parts this unit copies (`copied_part`).
    """

    source: str
    target: str
    row: Expr | None = None
    part: Expr = attrs.field(factory=lambda: const(0))
    parts: int = 1


@attrs.frozen
class Set:
    """Writes an integer into a scalar value, on a unit."""

    target: str
    value: Expr


@attrs.frozen
class Fetch:
    """Begins to bring a part of a constant into the unit's own memory, where it stays to the end of the launch.

    Later tasks of the unit that are `near` read it there. It changes where they read and not what.

    Args:
        source: name of a weight.
        first: its first byte, a multiple of 16.
        bytes: how many, a multiple of 16.
        offset: where it comes to stand in the unit's own memory, a multiple of 16.
    """

    source: str
    first: Expr
    bytes: int
    offset: int


@attrs.frozen
class BlockControl:
    """A loop or a branch inside one unit.

    A loop has a `counter`. It ends after `trip` trips, after as many as the int64 scalar `limit` says, which is read
    once before the first trip, and when the bool scalar `condition` does not hold before a trip, as far as these are
    given. A branch takes `body` where `condition` holds, else `orelse`.
    """

    counter: str
    trip: Expr | None
    condition: str
    body: tuple[Item, ...]
    orelse: tuple[Item, ...] = ()
    limit: str = ""


Item = Task | Copy | Set | Fetch | Signal | Wait | BlockControl


@attrs.frozen
class Lane:
    """What the units `first <= unit < first + units` do, each in this order."""

    first: int
    units: Expr
    items: tuple[Item, ...]


@attrs.frozen
class Phase:
    """The lanes that run side by side until the next grid barrier. A unit stands in at most one lane."""

    lanes: tuple[Lane, ...]

    @property
    def fixed(self) -> bool:
        """Whether the number of units of each lane is known."""
        return all(isinstance(x.units, Const) for x in self.lanes)


@attrs.frozen
class GridControl:
    """A loop or a branch that all units of a launch take together, with the fields of a `BlockControl`.

    Behind each phase stands a grid barrier, so what units read to decide is settled.
    """

    counter: str
    trip: Expr | None
    condition: str
    body: tuple[Part, ...]
    orelse: tuple[Part, ...] = ()
    limit: str = ""


@attrs.frozen
class GridCall:
    """A call that all units of a launch make together, with the fields of a `HostCall`.

    Barriers stand in front of the copies of the arguments, behind these, and behind the copies of the results. Small
    copies are made by unit 0 (`ir.stack.alone`). A call beyond the bound ends the launch on all units.

    Args:
        early: no barrier stands between the phase before it and the copies of its arguments, which are small.
        direct: none stands between these copies and the procedure's first phase, in which unit 0 alone does something.
        late: none stands between the copies of its results, which are small, and the phase or the call behind it.
    """

    procedure: str
    args: tuple[str, ...]
    results: tuple[str, ...]
    reads: tuple[str, ...] = ()
    early: bool = False
    direct: bool = False
    late: bool = False


@attrs.frozen
class Fork:
    """Calls that need nothing of each other, which all units of a launch make: side by side or one after another.

    Where `Launch.subgrids` lets them run side by side, each runs on a part of the units, a sub-grid. A phase is the
    same there: each unit does in turn what several units of the whole grid would. Barriers are those of the sub-grid,
    and none of the ones around calls is left out.
    """

    calls: tuple[GridCall, ...]


Part = Phase | GridControl | GridCall | Fork
"""What units do together, in a launch or in a procedure that launches call."""


@attrs.frozen
class Envelope:
    """What a launch occupies.

    Args:
        units: number of units (thread blocks, or parallel chunks of a CPU region), by the bounds of the symbols.
        threads: threads per unit.
        registers: per thread, 0 when unknown.
        shared_bytes: per unit.
        cooperative: whether all units must be resident at once (more than one phase, or waits).
        own_bytes: memory of each unit in which stands what is fetched; it lies behind the shared bytes.
        stack_bytes: memory of each unit in which stands where calls return to; it lies behind that. What calls need
            that nest deeper stands in global memory.
    """

    units: int
    threads: int = 1
    registers: int = 0
    shared_bytes: int = 0
    cooperative: bool = False
    own_bytes: int = 0
    stack_bytes: int = 0

    def holds(self, needs: Resources) -> bool:
        """Whether a unit has room for a task that needs so much."""
        return (
            needs.threads <= self.threads
            and needs.registers <= self.registers
            and needs.shared_bytes <= self.shared_bytes
        )

    @property
    def own_offset(self) -> int:
        """Where a unit's own memory begins in a block's shared memory."""
        return -(-self.shared_bytes // _LINE) * _LINE

    @property
    def stack_offset(self) -> int:
        """Where a unit's stack begins in a block's shared memory."""
        return -(-(self.own_offset + self.own_bytes) // _LINE) * _LINE

    @property
    def block_bytes(self) -> int:
        """Shared memory of a unit with its own memory and its stack."""
        if self.stack_bytes:
            return self.stack_offset + self.stack_bytes
        return self.own_offset + self.own_bytes if self.own_bytes else self.shared_bytes


@attrs.frozen
class Launch:
    """One kernel launch or parallel region. A grid barrier stands between its phases.

    Args:
        events: number of counters of each event that its units signal and wait for. All are zero when it begins.
        traced: of how many tasks each unit keeps a record of when it ran them; 0: of none.
        led: unit 0 alone decides and makes calls, and tells the others which phases they have a part in. Barriers stand
            around these, and none where unit 0 alone does something.
        subgrids: which forks that it comes to run their calls side by side. The first unit of each part leads it.
    """

    name: str
    envelope: Envelope
    body: tuple[Part, ...]
    events: Mapping[str, int] = attrs.field(converter=frozen_mapping, factory=dict)
    traced: int = 0
    led: bool = False
    subgrids: Subgrids = attrs.field(factory=Subgrids)

    @property
    def only_task(self) -> Task | None:
        """The task of a launch in which every unit runs the task of its own number and nothing else; else None.

        Such a launch needs no more than the kernel's own code. Kernels of any other are members of a persistent kernel.
        """
        lanes = [x for p in self.body if isinstance(p, Phase) for x in p.lanes if x.items]
        several = len(self.body) != 1 or len(lanes) != 1 or len(lanes[0].items) != 1
        if several or lanes[0].first != 0 or self.traced:
            return None
        (item,) = lanes[0].items
        one = isinstance(item, Task) and item.first == Var(UNIT) and item.count == const(1)
        return item if one and isinstance(item, Task) else None

    @property
    def event_buffer(self) -> str:
        """Name of the buffer in which its units meet and are traced; "" where they do neither."""
        return f"{self.name}.events" if self.envelope.cooperative or self.events or self.traced else ""

    @property
    def calls(self) -> tuple[GridCall, ...]:
        """The calls that its units make, without those of the procedures that they call."""
        return tuple(x for x in every_call(self.body) if isinstance(x, GridCall))


@attrs.frozen
class HostLoop:
    """A loop of the host program, while the scalar value `condition` holds (if named).

    Args:
        trip: the largest number of trips; None for no limit but `limit`.
        limit: name of an int64 scalar that is read once, before the first trip: the largest number of trips. "": none.
        graph: whether the device decides where the program runs as a graph (`ir.graphs`), and nothing is read back.
    """

    counter: str
    trip: Expr | None
    condition: str
    body: tuple[HostStep, ...]
    limit: str = ""
    graph: bool = False


@attrs.frozen
class HostIf:
    """A branch of the host program on the scalar value `condition`; `graph` as of a `HostLoop`."""

    condition: str
    then: tuple[HostStep, ...]
    orelse: tuple[HostStep, ...]
    graph: bool = False


@attrs.frozen
class HostCopy:
    """Copies the bytes of one value into another (loop-carried state, outputs that are inputs).

    Args:
        row: which piece of the target, of as many elements as the source has, is written; None when it is all of it.
    """

    source: str
    target: str
    row: Expr | None = None


@attrs.frozen
class HostSet:
    """Writes an integer into a scalar value (a loop's counter, where the body reads it)."""

    target: str
    value: Expr


@attrs.frozen
class HostCall:
    """Runs a procedure in a frame of its own.

    The arguments are copied into the procedure's parameters, then its body runs, then what its results hold is copied
    to `results`.

    Args:
        reads: values of the host program that the procedure, or one that it calls, reads where they stand.
    """

    procedure: str
    args: tuple[str, ...]
    results: tuple[str, ...]
    reads: tuple[str, ...] = ()


HostStep = Launch | HostLoop | HostIf | HostCopy | HostSet | HostCall
Step = HostStep | Part
"""What a procedure does: host steps, or parts that the units of a launch run."""


@attrs.frozen
class Procedure:
    """A function that the host program calls, or launches call, perhaps while it runs already.

    Args:
        params: names of the values that the arguments are copied into.
        body: steps of the host, or parts: then launches call it, whose units run it together.
        results: names of the values that the call's results are copied from.
    """

    name: str
    params: tuple[str, ...]
    body: tuple[Step, ...]
    results: tuple[str, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """What units run; nothing where it is the host's."""
        return tuple(x for x in self.body if isinstance(x, Part))

    @property
    def host(self) -> tuple[HostStep, ...]:
        """What the host runs; nothing where units of launches do."""
        return tuple(x for x in self.body if isinstance(x, HostStep))


Owner = Literal["program", "frame", "region", "launch", "unit"]
BufferKind = Literal["input", "output", "weight", "workspace", "event"]


@attrs.frozen
class Buffer:
    """A piece of memory.

    Args:
        kind: an `event` buffer belongs to a launch, holds no values, and is zero when the program is loaded; what a
            launch leaves in it is the back end's affair.
        bytes: size by the bounds of the symbols; of one frame or one region where these own it.
        owner: how long it lives: the whole program, one call of a procedure (it is there once for each call that is
            active, `Program.depth` times at most in each region), one launch, or one unit of a launch. What a region
            owns is there once for each (`ir.subgrids`), of which the host program and most launches have one.
    """

    name: str
    kind: BufferKind
    bytes: int
    level: Level = "global"
    owner: Owner = "program"


@attrs.frozen
class Placement:
    """Where a value lives: `bytes` from `offset` of a buffer, from host step `first` to `last` (both inclusive).

    Steps are numbered in the order of a walk over the host tree, then over each procedure, whose parameters are written
    in a step before its body and whose results are read in one after it. Parts of a procedure that launches call are
    steps. Two placements may share bytes when their lifetimes do not overlap, or when they are views of one value.
    """

    value: Value
    buffer: str
    offset: int
    bytes: int
    first: int
    last: int


@attrs.frozen
class Storage:
    """All buffers, and the placement of every value by name."""

    buffers: Mapping[str, Buffer] = attrs.field(converter=frozen_mapping)
    placements: Mapping[str, Placement] = attrs.field(converter=frozen_mapping)


@attrs.frozen
class PackedConstant:
    """A constant in the layout that a kernel reads: computed when the artifact is written, never held twice.

    Args:
        name: of the value that stands for it.
        access: how the kernel would have read it (value, index, guard).
        axes: extents of the kernel's axes that the access or the packing uses.
        packing: dims and the axis values they stand for.
    """

    name: str
    access: Access
    axes: tuple[Axis, ...]
    packing: Packing

    @property
    def value(self) -> Value:
        """The packed tensor."""
        return Value(self.name, self.access.value.dtype, tuple(const(x) for x in self.packing.shape))


@attrs.frozen
class Program:
    """A planned model.

    Args:
        inputs: the model's inputs in order.
        outputs: the model's outputs in order, each written by some kernel.
        input_names: what the model calls its inputs.
        output_names: what the model calls its outputs.
        lengths: outputs of which data decide how many rows count; see `ir.lengths`.
        kernels: by name.
        body: the host tree.
        constants: by value name; only those that some kernel reads as they are, or that something is packed from.
        packed: by value name.
        procedures: by name, in the order of the steps' numbers.
        depth: calls of procedures that may be active at one time; one more ends the run with an InputError.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    kernels: Mapping[str, Kernel] = attrs.field(converter=frozen_mapping)
    body: tuple[HostStep, ...]
    storage: Storage
    constants: Mapping[str, Constant] = attrs.field(converter=frozen_mapping)
    packed: Mapping[str, PackedConstant] = attrs.field(converter=frozen_mapping, factory=dict)
    symbols: tuple[Symbol, ...] = ()
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    procedures: Mapping[str, Procedure] = attrs.field(converter=frozen_mapping, factory=dict)
    depth: int = 0
    lengths: Mapping[str, str] = attrs.field(converter=frozen_mapping, factory=dict)

    @property
    def steps(self) -> tuple[HostStep, ...]:
        """The host tree and the bodies of all procedures of the host."""
        return (*self.body, *(x for p in self.procedures.values() for x in p.host))

    @property
    def parts(self) -> tuple[Part, ...]:
        """What units run: the bodies of all launches, and the procedures that launches call."""
        launched = (x for launch in launches(self.steps) for x in launch.body)
        return (*launched, *(x for p in self.procedures.values() for x in p.parts))

    def size_of(self, buffer: Buffer) -> int:
        """Bytes of a buffer, all frames and regions together."""
        return buffer.bytes * {"frame": self.regions * self.depth, "region": self.regions}.get(buffer.owner, 1)

    @property
    def regions(self) -> int:
        """Regions of the launch that has most of them."""
        return max((x.subgrids.regions for x in launches(self.steps)), default=1)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the values in weight buffers, in the order of the storage."""
        kinds = {name: buffer.kind for name, buffer in self.storage.buffers.items()}
        return tuple(name for name, p in self.storage.placements.items() if kinds[p.buffer] == "weight")


def copied_part(copy: Copy, size: Expr) -> tuple[Expr, Expr]:
    """The first byte of the source that a copy of `size` bytes takes, and the first that it does not.

    All parts but the last are whole cache lines.
    """
    if copy.parts == 1:
        return const(0), size
    lines = const(_LINE * copy.parts)
    each = (size + lines - 1) // lines * _LINE
    return minimum(copy.part * each, size), minimum((copy.part + 1) * each, size)


def host_leaves(steps: Iterable[HostStep]) -> Iterator[Launch | HostCopy | HostSet | HostCall]:
    """Every step of a host tree that is no control, in the order of the text."""
    for step in steps:
        match step:
            case HostLoop():
                yield from host_leaves(step.body)
            case HostIf():
                yield from host_leaves((*step.then, *step.orelse))
            case _:
                yield step


def launches(steps: Iterable[HostStep]) -> list[Launch]:
    """Every launch of a host tree, in the order of the text."""
    return [x for x in host_leaves(steps) if isinstance(x, Launch)]


def calls(steps: Iterable[HostStep]) -> list[HostCall]:
    """Every call that a host tree makes, in the order of the text."""
    return [x for x in host_leaves(steps) if isinstance(x, HostCall)]


def every_call(steps: Iterable[Step]) -> list[HostCall | GridCall]:
    """Every call in some steps and in the launches among them, in the order of the text."""
    found: list[HostCall | GridCall] = []
    for step in steps:
        if isinstance(step, HostCall | GridCall):
            found.append(step)
        elif isinstance(step, Fork):
            found += step.calls
        for side in sides_of(step):
            found += every_call(side)
    return found


def forks(parts: Iterable[Step]) -> list[Fork]:
    """Every fork in some parts, in the order of the text."""
    found: list[Fork] = []
    for part in parts:
        found += [part] if isinstance(part, Fork) else forks(x for side in sides_of(part) for x in side)
    return found


def sides_of(step: Step) -> tuple[tuple[Step, ...], ...]:
    """The bodies of a loop, a branch or a launch."""
    match step:
        case HostLoop() | Launch():
            return (step.body,)
        case HostIf():
            return step.then, step.orelse
        case GridControl():
            return (step.body,) if step.counter else (step.body, step.orelse)
    return ()


def reads_back(steps: Iterable[HostStep]) -> bool:
    """Whether the host decides by a value of the device, or calls, for that is how a recursion ends."""
    for step in steps:
        match step:
            case HostCall():
                return True
            case HostIf():
                if not step.graph or reads_back((*step.then, *step.orelse)):
                    return True
            case HostLoop():
                decides = bool(step.condition or step.limit) and not step.graph
                if decides or reads_back(step.body):
                    return True
    return False


def numbered_launches(steps: Iterable[HostStep], number: int = 0) -> Iterator[tuple[int, Launch]]:
    """The launches of a host tree with their numbers, as `Placement` counts them.

    Args:
        number: of the first step.
    """
    for step in steps:
        match step:
            case Launch():
                yield number, step
            case HostLoop():
                yield from numbered_launches(step.body, number + 1)
            case HostIf():
                yield from numbered_launches(step.then, number + 1)
                yield from numbered_launches(step.orelse, next_number(step.then, number + 1))
        number = next_number((step,), number)


def next_number(steps: Iterable[Step], number: int = 0) -> int:
    """The number of the step after some steps of which the first has a number, as `Placement` counts them.

    A loop or branch has a number before its body and one after it.
    """
    for step in steps:
        if not isinstance(step, Launch) and (sides := sides_of(step)):
            number += 1
            for side in sides:
                number = next_number(side, number)
        number += 1
    return number


def spans(body: Iterable[Step], procedures: Iterable[Procedure]) -> dict[str, tuple[int, int]]:
    """For each procedure the numbers of the steps in which its parameters are written and its results are read."""
    number = next_number(body)
    found: dict[str, tuple[int, int]] = {}
    for procedure in procedures:
        last = next_number(procedure.body, number + 1)
        found[procedure.name] = (number, last)
        number = last + 1
    return found
