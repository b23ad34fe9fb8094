"""Weights that units keep: what their tasks read in every trip of a loop is fetched once, when the launch begins.

What is read most often comes first, as long as a unit has room; nothing ever makes way. A task that finds no room for
all its slices keeps the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from tilewright.interpret.evaluate import evaluate
from tilewright.ir import dtypes
from tilewright.ir.expr import Const, Expr, const, variables
from tilewright.ir.group import ControlItem
from tilewright.ir.ops import Loop, Value
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Fetch,
    GridControl,
    Item,
    Kernel,
    Lane,
    Launch,
    Near,
    Part,
    Phase,
    Task,
)
from tilewright.ir.verify.near import parts_of
from tilewright.planning.own import Slices, room, slices_of
from tilewright.planning.session import Session
from tilewright_grinder.placement.barriers import together

Trips = Callable[[Expr | None], int]
"""How often a loop is assumed to run."""

_BESIDE = 1 << 15
"""Bytes of a unit's memory that are left for what kernels need."""


def resident(item: ControlItem, session: Session) -> tuple[str, ...]:
    """The weights that loops of an item read, as many as units can keep."""
    device = session.device
    left = device.units * max(device.shared_per_block - _BESIDE, 0) if device.kind == "cuda" else 0
    found: dict[str, None] = {}
    for value in _read_in_loops(item, isinstance(item.op, Loop)):
        if value.name in session.constants and value.name not in found:
            left -= math.prod(value.static_shape()) * dtypes.size_of(value.dtype)
            if left >= 0:
                found[value.name] = None
    return tuple(found)


def _read_in_loops(item: ControlItem, looped: bool) -> Iterator[Value]:
    for inner in (x for body in item.bodies for x in body.items):
        if isinstance(inner, ControlItem):
            yield from _read_in_loops(inner, looped or isinstance(inner.op, Loop))
        elif looped:
            yield from inner.inputs


@attrs.frozen
class _Key:
    """Tasks that read the same slices on the same units."""

    slices: Slices
    first: Expr
    count: Expr
    stride: Expr
    units: range


def kept(launch: Launch, session: Session, trips: Trips) -> Launch:
    """The launch, whose units keep the weights that they read again and have room for."""
    left = room(launch.envelope, session.device)
    if not left:
        return launch
    keeper = _Keeper(session.table.kernels, [0] * launch.envelope.units, left)
    read = [x for x in _tasks(launch.body, trips) if x.times > 1]
    for found in sorted(read, key=lambda x: -x.times):
        keeper.bring(found.task, found.lane)
    if not keeper.near:
        return launch
    body = tuple(keeper.part(x) for x in launch.body)
    lanes = tuple(Lane(u, const(1), tuple(x)) for u, x in sorted(keeper.fetches.items()))
    first = body[0]
    if isinstance(first, Phase) and first.fixed:
        body = (together(Phase(lanes), first), *body[1:])
    else:
        body = (Phase(lanes), *body)
    return attrs.evolve(launch, body=body, envelope=attrs.evolve(launch.envelope, own_bytes=max(keeper.used)))


@attrs.frozen
class _Read:
    """A task of a lane, and how often it is assumed to run."""

    task: Task
    lane: Lane
    times: int


def _tasks(parts: Sequence[Part], trips: Trips, times: int = 1) -> Iterator[_Read]:
    for part in parts:
        if isinstance(part, Phase):
            for lane in part.lanes:
                yield from _items(lane, lane.items, trips, times)
        elif isinstance(part, GridControl):
            inside = times * trips(part.trip) if part.counter else times
            yield from _tasks((*part.body, *part.orelse), trips, inside)


def _items(lane: Lane, items: Sequence[Item], trips: Trips, times: int) -> Iterator[_Read]:
    for item in items:
        if isinstance(item, Task):
            yield _Read(item, lane, times)
        elif isinstance(item, BlockControl):
            inside = times * trips(item.trip) if item.counter else times
            yield from _items(lane, (*item.body, *item.orelse), trips, inside)


@attrs.define
class _Keeper:
    """What each unit keeps, and where.

    Args:
        used: bytes of each unit's own memory.
        room: bytes that each has.
        near: what tasks find there.
        fetches: what brings it, by unit.
    """

    kernels: Mapping[str, Kernel]
    used: list[int]
    room: int
    near: dict[_Key, Near] = attrs.field(factory=dict)
    fetches: dict[int, list[Fetch]] = attrs.field(factory=dict)

    def bring(self, task: Task, lane: Lane) -> None:
        """Makes room for what some tasks read, if there is any."""
        key = self._key(task, lane)
        if key is None or key in self.near:
            return
        kernel = self.kernels[task.kernel]
        numbers = {u: self._numbers(task, u) for u in key.units}
        most = max(map(len, numbers.values()))
        offset = max(self.used[u] for u in key.units)
        sizes = [kernel.choice.slice_bytes(n) for n in range(len(kernel.choice.slices) + 1)]
        count = max(n for n, size in enumerate(sizes) if size * most <= self.room - offset)
        if not count or not most:
            return
        self.near[key] = Near(offset, count)
        for unit, tasks in numbers.items():
            for position, number in enumerate(tasks):
                there = Near(offset + position * sizes[count], count)
                self.fetches.setdefault(unit, []).extend(
                    Fetch(x.source, const(x.first), x.bytes, x.offset)
                    for x in parts_of(kernel, task.args, number, there)
                )
            self.used[unit] = offset + len(tasks) * sizes[count]

    def _key(self, task: Task, lane: Lane) -> _Key | None:
        """None where there are no slices, or what the units run is not known."""
        kernel = self.kernels[task.kernel]
        known = isinstance(lane.units, Const) and not variables(task.first, task.count, task.stride) - {UNIT}
        if not kernel.choice.slices or not known:
            return None
        assert isinstance(lane.units, Const)
        units = range(lane.first, lane.first + int(lane.units.value))
        return _Key(slices_of(kernel, task.args), task.first, task.count, task.stride, units)

    @staticmethod
    def _numbers(task: Task, unit: int) -> list[int]:
        first, count, stride = (int(evaluate(x, {UNIT: unit})) for x in (task.first, task.count, task.stride))
        return [first + stride * i for i in range(count)]

    def part(self, part: Part) -> Part:
        """The part with tasks that read what their unit keeps."""
        if isinstance(part, Phase):
            return Phase(tuple(attrs.evolve(x, items=self._near(x, x.items)) for x in part.lanes))
        if not isinstance(part, GridControl):
            return part
        body, orelse = (tuple(map(self.part, x)) for x in (part.body, part.orelse))
        return attrs.evolve(part, body=body, orelse=orelse)

    def _near(self, lane: Lane, items: Sequence[Item]) -> tuple[Item, ...]:
        made: list[Item] = []
        for item in items:
            if isinstance(item, Task):
                key = self._key(item, lane)
                item = attrs.evolve(item, near=None if key is None else self.near.get(key))
            elif isinstance(item, BlockControl):
                body, orelse = self._near(lane, item.body), self._near(lane, item.orelse)
                item = attrs.evolve(item, body=body, orelse=orelse)
            made.append(item)
        return tuple(made)
