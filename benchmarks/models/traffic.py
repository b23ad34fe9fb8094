"""What each launch of a planned program reads and writes: distinct elements, activations and weights apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.models.elements import Extents, Reach, distinct
from tilewright.ir import dtypes
from tilewright.ir.expr import static
from tilewright.ir.group import Group
from tilewright.ir.ops import Access, Axis, ScanOp, TensorOp, Value, Write
from tilewright.ir.program import (
    BlockControl,
    GridControl,
    HostCopy,
    Item,
    Kernel,
    Launch,
    Part,
    Phase,
    Program,
    Task,
    host_leaves,
    launches,
)
from tilewright.ir.verify.calls import reached
from tilewright.planning.kernels import nests_of
from tilewright.views.subject import subject_of


@dataclass(frozen=True)
class Traffic:
    """Bytes of one launch.

    Attributes:
        name: of the launch.
        kernel: names of its kernels.
        read: of activations that were written by other launches or are inputs of the model.
        written: of values that live longer than the launch.
        weights: of constants that are read.
    """

    name: str
    kernel: str
    read: int
    written: int
    weights: int

    @property
    def crossing(self) -> int:
        """Bytes of activations that cross the launch's boundary."""
        return self.read + self.written


def traffic(program: Program) -> list[Traffic]:
    """Of every launch in the order of the program; what stands in a loop counts once."""
    counter = _Counter(program)
    return [counter.of(x) for x in launches(program.steps)]


def copies(program: Program) -> int:
    """Bytes that the host program copies between values, read and written; they are no launches."""
    sizes = {name: p.bytes for name, p in program.storage.placements.items()}
    return sum(2 * sizes[x.source] for x in host_leaves(program.steps) if isinstance(x, HostCopy))


class _Counter:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._weights = {*program.constants, *program.packed}
        self._touched: dict[str, tuple[_Touched, _Touched]] = {}

    def of(self, launch: Launch) -> Traffic:
        called = (self._program.procedures[x].parts for x in reached(launch.body, self._program))
        tasks = (t for parts in (launch.body, *called) for part in parts for t in _tasks(part))
        calls = list(dict.fromkeys((t.kernel, t.args) for t in tasks))
        read, written = _Touched(), _Touched()
        for name, args in calls:
            kernel = self._program.kernels[name]
            if name not in self._touched:
                self._touched[name] = _of_kernel(kernel, self._program)
            actual = {p.name: a for p, a in zip(kernel.params, args, strict=True)}
            reads, writes = self._touched[name]
            read.add(reads, actual)
            written.add(writes, actual)
        inner = {x for x in written.names if self._is_inner(x)}
        outside = [x for x in read.names if x not in written.names]
        return Traffic(
            launch.name,
            " ".join(dict.fromkeys(name for name, _ in calls)),
            sum(read.bytes_of(x) for x in outside if x not in self._weights),
            sum(written.bytes_of(x) for x in written.names if x not in inner),
            sum(read.bytes_of(x) for x in outside if x in self._weights),
        )

    def _is_inner(self, value: str) -> bool:
        placement = self._program.storage.placements.get(value)
        return placement is not None and self._program.storage.buffers[placement.buffer].owner in ("launch", "unit")


class _Touched:
    """By value, how it is accessed; None: all of it."""

    def __init__(self) -> None:
        self._reaches: dict[str, list[Reach | None]] = defaultdict(list)
        self._values: dict[str, Value] = {}

    @property
    def names(self) -> list[str]:
        return list(self._values)

    def note(self, value: Value, reach: Reach | None) -> None:
        self._values.setdefault(value.name, value)
        self._reaches[value.name].append(reach)

    def add(self, other: _Touched, actual: dict[str, str]) -> None:
        """What another one touches, under other names."""
        for name, value in other._values.items():
            for reach in other._reaches[name]:
                self._values.setdefault(actual[name], value)
                self._reaches[actual[name]].append(reach)

    def bytes_of(self, name: str) -> int:
        value, reaches = self._values[name], self._reaches[name]
        partial = [x for x in reaches if x is not None]
        all_of_it = len(partial) < len(reaches)
        count = static(value.num_elements()) if all_of_it else distinct(partial)
        return count * dtypes.size_of(value.dtype)


def _tasks(part: Part) -> Iterator[Task]:
    if isinstance(part, GridControl):
        for inner in (*part.body, *part.orelse):
            yield from _tasks(inner)
        return
    for lane in part.lanes if isinstance(part, Phase) else ():
        yield from _tasks_of(lane.items)


def _tasks_of(items: Iterable[Item]) -> Iterator[Task]:
    for item in items:
        if isinstance(item, Task):
            yield item
        elif isinstance(item, BlockControl):
            yield from _tasks_of((*item.body, *item.orelse))


def _of_kernel(kernel: Kernel, program: Program) -> tuple[_Touched, _Touched]:
    """What a kernel reads and writes, by its own names."""
    read, written = _Touched(), _Touched()
    subject = subject_of(kernel.group, program.constants, kernel.symbols)
    nests = nests_of(subject)
    if not nests or (len(nests) > 1 and not kernel.packed):
        return _of_operators(kernel.group)
    packed = dict(kernel.packed)
    made = {x.name for op in kernel.group.ops for x in op.outputs}
    outside = {x.name for x in kernel.group.outputs}
    slot = 0
    for nest in nests:
        axes = _extents(nest.axes)
        for access in nest.reads:
            if slot in packed:
                read.note(packed[slot], None)
            elif access.value.name not in made:
                read.note(access.value, _reach(access, axes))
            slot += 1
        for store in nest.stores:
            if store.write.value.name in outside:
                _note_write(store.write, axes, read, written)
    return read, written


def _of_operators(group: Group) -> tuple[_Touched, _Touched]:
    """Of a group that is no single loop nest: the operators' accesses to what is outside, over their own domains."""
    read, written = _Touched(), _Touched()
    made = {x.name for op in group.ops for x in op.outputs}
    outside = {x.name for x in group.outputs}
    for op in group.ops:
        if not isinstance(op, TensorOp | ScanOp):
            for value in op.inputs:
                if value.name not in made:
                    read.note(value, None)
            for value in op.outputs:
                if value.name in outside:
                    written.note(value, None)
            continue
        axes = _extents((*op.axes, op.scan) if isinstance(op, ScanOp) else op.axes)
        for access in op.reads:
            if access.value.name not in made:
                read.note(access.value, _reach(access, axes))
        for write in op.writes:
            if write.value.name in outside:
                _note_write(write, axes, read, written)
    return read, written


def _note_write(write: Write, axes: Extents, read: _Touched, written: _Touched) -> None:
    """A write to a part of a value that starts as another one copies that first."""
    if write.base is not None:
        read.note(write.base, None)
        written.note(write.value, None)
    else:
        written.note(write.value, _reach(write, axes))


def _reach(access: Access | Write, axes: Extents) -> Reach:
    return Reach(access.index, access.guard, access.value.static_shape(), axes)


def _extents(axes: Sequence[Axis]) -> Extents:
    return tuple((x.name, static(x.extent)) for x in axes)
