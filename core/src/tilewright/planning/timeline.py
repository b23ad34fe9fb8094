"""When which unit runs what, as the cost model predicts it: a program's launches played out.

A kernel's predicted seconds are those of a launch alone, so one task takes these, without the launch, divided by the
rounds in which such a launch runs its tasks. Loops of the host are played once, those inside launches as often as is
known, but not more than a few times; of branches of the host and of the grid the longer one is, of a unit's the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tilewright.device import DeviceModel
from tilewright.interpret.evaluate import evaluate
from tilewright.ir.choice import TileChoice
from tilewright.ir.expr import Expr
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostIf,
    HostLoop,
    HostStep,
    Item,
    Launch,
    Part,
    Phase,
    Program,
    Signal,
    Task,
    Wait,
    every_call,
)
from tilewright.ir.verify.calls import reached
from tilewright.ir.verify.tree import Leaf, tasks_of

LEAST = 5e-8
"""Seconds of a task that is predicted to take nothing."""
MOST_TRIPS = 64
"""Trips of a loop inside a launch that are played."""


def task_seconds(choice: TileChoice, device: DeviceModel) -> float:
    """Predicted seconds of one task of a kernel, as many running side by side as in a launch alone."""
    needs = choice.resources
    side_by_side = device.blocks_together(needs.threads, needs.registers, needs.shared_bytes)
    rounds = -(-needs.tasks // max(side_by_side, 1))
    return max(choice.cost - device.launch_seconds, LEAST) / rounds


def least_seconds(device: DeviceModel) -> float:
    """Seconds that a task of a launch of many kernels takes at least: on an H200 tasks of 2 KiB took 0.7 to 1.6 µs."""
    return LEAST if device.kind == "cpu" else device.barrier_seconds


def in_unit_seconds(choice: TileChoice, device: DeviceModel, near: int = 0) -> float:
    """Predicted seconds of one task of a kernel in a unit that runs tasks one after the other.

    Args:
        near: bytes of what it reads that stand in the unit's own memory.
    """
    seconds, least = task_seconds(choice, device), least_seconds(device)
    own = next((x for x in device.levels if not x.shared_by_units), None)
    if near and own is not None:
        side_by_side = min(choice.resources.tasks, device.units)
        far = near * side_by_side / device.levels[0].bandwidth
        seconds = max(seconds - far, near * device.units / own.bandwidth)
    return max(seconds, least)


def start_seconds(device: DeviceModel) -> float:
    """Seconds from the end of what came before to the first task of a launch of many kernels.

    A GPU's units fetch what they are to do and its arguments, one after the other, from the cache that they share; for
    a launch of one kernel the hardware has them ready.
    """
    return device.launch_seconds + (0.0 if device.kind == "cpu" else device.barrier_seconds)


def meeting_seconds(device: DeviceModel) -> float:
    """Seconds from the end of the last task before a barrier to the beginning of the tasks behind it.

    On an H200 1.6 to 2.0 µs, where a barrier with nothing to do before and behind it takes 1.0.
    """
    return device.barrier_seconds * (1.0 if device.kind == "cpu" else 1.7)


def wait_seconds(device: DeviceModel, share: float = 1.0) -> float:
    """Seconds from the end of a task to the beginning of one that waits for it.

    On a GPU what the task has written must first be where others see it, and units that signal to a counter and look at
    it take turns there: on an H200 2 µs for few units, more than 3 for all. Threads of a CPU that spin see a signal
    sooner than all of them meet.

    Args:
        share: of the device's units, those that signal.
    """
    return device.barrier_seconds * (0.5 if device.kind == "cpu" else 2.3 + 1.2 * min(share, 1.0))


@attrs.frozen
class Bar:
    """Tasks of a kernel that a unit runs one after the other.

    Args:
        launch: name of the launch.
        unit: number of the place where the unit stands: units of a launch that is larger than the device take turns.
        kernel: its name.
        nodes: ONNX nodes that it computes.
        begin, end: seconds since the program began.
    """

    launch: str
    unit: int
    kernel: str
    nodes: tuple[str, ...]
    begin: float
    end: float


@attrs.frozen
class Timeline:
    """Bars in the order of their launches.

    Args:
        units: places side by side.
        seconds: when the program ends.
    """

    bars: tuple[Bar, ...]
    units: int
    seconds: float

    @property
    def busy(self) -> float:
        """Share of the units' time in which they run tasks."""
        spent = sum(x.end - x.begin for x in self.bars)
        return spent / (self.units * self.seconds) if self.bars else 0.0


def timeline_of(program: Program, device: DeviceModel) -> Timeline:
    """The predicted timeline of a program whose symbols stand at their upper bounds."""
    player = _Player(program, device)
    player.steps(program.body)
    return Timeline(tuple(player.bars), max((x.unit for x in player.bars), default=-1) + 1, player.now)


class _Player:
    def __init__(self, program: Program, device: DeviceModel) -> None:
        self._program = program
        self._device = device
        self._seconds: dict[str, float] = {}
        self._nodes = {name: x.group.nodes for name, x in program.kernels.items()}
        self._env = {x.name: x.upper for x in program.symbols}
        self.bars: list[Bar] = []
        self.now = 0.0
        self._called: set[str] = set()

    def steps(self, steps: Sequence[HostStep]) -> None:
        """Plays host steps, one after the other."""
        for step in steps:
            match step:
                case Launch():
                    self._launch(step)
                case HostLoop():
                    self._env[step.counter] = 0
                    self.steps(step.body)
                case HostIf():
                    self._longer(step.then, step.orelse)

    def _longer(self, then: Sequence[HostStep], orelse: Sequence[HostStep]) -> None:
        played = []
        for branch in (then, orelse):
            other = _Player(self._program, self._device)
            other.now = self.now
            other._env = dict(self._env)
            other.steps(branch)
            played.append(other)
        longer = max(played, key=lambda x: x.now)
        self.bars += longer.bars
        self.now = longer.now

    def _launch(self, launch: Launch) -> None:
        threads, needs = launch.envelope.threads, launch.envelope
        places = self._device.blocks_together(threads, needs.registers, needs.shared_bytes)
        self._places = max(min(places, launch.envelope.units), 1)
        called = (self._program.procedures[x].parts for x in reached(launch.body, self._program))
        for name in {x.kernel for parts in (launch.body, *called) for x in tasks_of(parts)}:
            choice = self._program.kernels[name].choice
            self._seconds[name] = task_seconds(choice, self._device)
        if self._device.kind != "cpu" or launch.envelope.units > 1:
            start = start_seconds(self._device) if launch.envelope.cooperative else self._device.launch_seconds
            self.now += start
        self._events: dict[tuple[str, int], list[float]] = {}
        self._parts(launch, launch.body)

    def _parts(self, launch: Launch, parts: Sequence[Part]) -> None:
        for number, part in enumerate(parts):
            if number:
                self.now += meeting_seconds(self._device)
            if isinstance(part, Phase):
                self._phase(launch, part)
                continue
            if isinstance(part, GridCall | Fork):
                for call in every_call((part,)):
                    self._call(launch, call)
                continue
            if not part.counter:
                self._branch(launch, part)
                continue
            for trip in range(self._trips(part, self._env)):
                self._env[part.counter] = trip
                self._parts(launch, part.body)

    def _call(self, launch: Launch, call: HostCall | GridCall) -> None:
        """A procedure, without the calls of it that it makes: how many there are, data decide."""
        if call.procedure not in self._called:
            self._called.add(call.procedure)
            self._parts(launch, self._program.procedures[call.procedure].parts)
            self._called.remove(call.procedure)

    def _branch(self, launch: Launch, branch: GridControl) -> None:
        played = []
        for side in (branch.body, branch.orelse):
            other = _Player(self._program, self._device)
            other.now, other._env, other._places = self.now, dict(self._env), self._places
            other._seconds, other._called = self._seconds, set(self._called)
            other._events = {key: list(x) for key, x in self._events.items()}
            other._parts(launch, side)
            played.append(other)
        longer = max(played, key=lambda x: x.now)
        self.bars += longer.bars
        self.now, self._events = longer.now, longer._events

    def _trips(self, loop: GridControl | BlockControl, env: Mapping[str, int]) -> int:
        if loop.trip is None:
            return 1
        return min(max(int(evaluate(loop.trip, {UNIT: 0, **env})), 0), MOST_TRIPS)

    def _phase(self, launch: Launch, phase: Phase) -> None:
        """The units take turns, each until it has to wait; those beyond the device's places follow the earlier ones."""
        free = [self.now] * self._places
        runs: list[tuple[int, Iterator[None]]] = []
        for lane in phase.lanes:
            for unit in range(lane.first, lane.first + self._value(lane.units, 0)):
                runs.append((unit, self._unit(launch, lane.items, unit, free)))
        waiting = runs
        while waiting:
            before, left = self._made(free), []
            for unit, run in waiting:
                if next(run, _ENDED) is not _ENDED:
                    left.append((unit, run))
            if len(left) == len(waiting) and self._made(free) == before:
                break  # a wait that nobody meets, which the verifier refuses
            waiting = left
        self.now = max(free)

    def _made(self, free: Sequence[float]) -> tuple[float, int]:
        return sum(free), sum(map(len, self._events.values()))

    def _unit(self, launch: Launch, items: Sequence[Item], unit: int, free: list[float]) -> Iterator[None]:
        """Plays a unit's list; yields while it has to wait."""
        place = unit % self._places
        env = {**self._env, UNIT: unit}
        for item in self._items(items, env):
            match item:
                case Task():
                    count = int(evaluate(item.count, env))
                    begin = free[place]
                    free[place] = begin + count * self._seconds[item.kernel]
                    bar = Bar(launch.name, place, item.kernel, self._nodes[item.kernel], begin, free[place])
                    self.bars.append(bar)
                case Signal():
                    key = (item.event, int(evaluate(item.index, env)))
                    self._events.setdefault(key, []).append(free[place])
                case Wait():
                    key, target = (item.event, int(evaluate(item.index, env))), int(evaluate(item.target, env))
                    while len(self._events.get(key, ())) < target:
                        yield
                    if target > 0:
                        share = target / launch.envelope.units
                        met = sorted(self._events[key])[target - 1] + wait_seconds(self._device, share)
                        free[place] = max(free[place], met)

    def _items(self, items: Sequence[Item], env: dict[str, int]) -> Iterator[Leaf]:
        for item in items:
            if not isinstance(item, BlockControl):
                yield item
                continue
            for trip in range(self._trips(item, env) if item.counter else 1):
                if item.counter:
                    env[item.counter] = trip
                yield from self._items(item.body, env)

    def _value(self, expr: Expr, unit: int) -> int:
        return int(evaluate(expr, {**self._env, UNIT: unit}))


_ENDED = object()
