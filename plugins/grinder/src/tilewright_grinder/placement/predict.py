"""What steps and launches are predicted to take.

Kernels take what the slot `cost` says: a task its share of a launch alone (`task_seconds`). Beside that a launch, a
barrier and what the host reads back cost what the device model says. Of a loop whose trips are not known a number is
assumed, which is the same at every level, and of a branch a probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from tilewright.device import DeviceModel
from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Const, Expr
from tilewright.ir.graphs import MOST_NODES, nodes
from tilewright.ir.module import Symbol
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Copy,
    Fetch,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Item,
    Kernel,
    Lane,
    Launch,
    Part,
    Phase,
    Set,
    Task,
    reads_back,
)
from tilewright.ir.stack import sharing
from tilewright.ir.verify.calls import wide
from tilewright.planning.storage import byte_size
from tilewright.planning.timeline import in_unit_seconds, task_seconds
from tilewright_grinder.placement.limits import ValueOf

_READ_BACK = 10.0
"""Launches that it takes as long as to wait for a value of a GPU, and to fill its empty queue again."""
_APART = 5.0
"""What a launch costs outside of a CUDA graph, in launches inside one: no graph stands for what a value decides."""
_GRAPH_ENTER, _GRAPH_TRIP = 5.5, 3.75
"""Launches in a graph that it takes as long as to begin a loop there, and as a trip takes beside its body."""
_GRAPH_BRANCH, _GRAPH_SIDE = 4.2, 2.7
"""The same of a branch, and of a side that is taken. Measured on an H100, each with the kernel that decides."""
_CPU_LAUNCHES = 0.02
"""Of a CPU's parallel region, what a trip or a branch of the host program takes."""
_RECORDS = 8.0
"""Steps that wait for each other (`step_seconds`) in what a unit of a GPU does between two tasks."""


def meeting_seconds(device: DeviceModel) -> float:
    """Seconds from the end of a phase to the beginning of the next one: on an H200 1.3 µs, for units that have the
    registers to go through their records."""
    return device.barrier_seconds * (1.0 if device.kind == "cpu" else 1.3)


@attrs.frozen
class Predictor:
    """Predicted seconds.

    Args:
        kernels: that tasks run.
        value_of: for the sizes of what is copied.
        trips: of a loop, where nothing says how many.
        taken: how probable the first side of a branch is.
        called: seconds that a call of a function takes beside making it, with all calls that follow from it.
    """

    device: DeviceModel
    kernels: Mapping[str, Kernel]
    symbols: tuple[Symbol, ...]
    value_of: ValueOf
    trips: int = 32
    taken: float = 0.5
    called: Callable[[str], float] = lambda _: 0.0

    @property
    def _cpu(self) -> bool:
        return self.device.kind == "cpu"

    def steps(self, steps: Sequence[HostStep]) -> float:
        """Of the host program."""
        launch = self.device.launch_seconds
        captured = not reads_back(steps) and nodes(steps) <= MOST_NODES
        return self._steps(steps, launch if self._cpu or captured else _APART * launch)

    def _steps(self, steps: Sequence[HostStep], launch: float) -> float:
        total = 0.0
        for step in steps:
            match step:
                case Launch():
                    total += self.launch(step, launch)
                case HostCopy():
                    total += self._bytes(step.source) / self._bandwidth() + (0.0 if self._cpu else launch)
                case HostSet():
                    total += 0.0 if self._cpu else launch
                case HostIf():
                    sides = [self._steps(x, launch) for x in (step.then, step.orelse)]
                    total += (self._branch(step) if step.graph else self.decision(True)) + self._either(sides)
                case HostLoop() if step.graph:
                    unit = self.device.launch_seconds
                    each = self._steps(step.body, launch) + _GRAPH_TRIP * unit
                    total += _GRAPH_ENTER * unit + self.trips_of(step.trip) * each
                case HostLoop():
                    each = self._steps(step.body, launch) + self.decision(bool(step.condition))
                    once = self.decision(True) if step.limit else 0.0
                    total += once + self.trips_of(step.trip) * each
                case HostCall():
                    copies = len(step.args) + len(step.results)
                    total += (
                        self.decision(False) + self.called(step.procedure) + (0.0 if self._cpu else copies * launch)
                    )
        return total

    def _branch(self, step: HostIf) -> float:
        """Of a branch that the device decides, without what is on its sides."""
        taken = self._either([_GRAPH_SIDE if x else 0.0 for x in (step.then, step.orelse)])
        return (_GRAPH_BRANCH + taken) * self.device.launch_seconds

    def decision(self, reads: bool) -> float:
        """Of a trip or a branch of the host, where it reads a value of the device and where it does not."""
        if self._cpu:
            return _CPU_LAUNCHES * self.device.launch_seconds
        return _READ_BACK * self.device.launch_seconds if reads else 0.0

    def launch(self, launch: Launch, start: float | None = None) -> float:
        """Of a launch; `start` is what starting one costs."""
        device = self.device
        start = device.launch_seconds if start is None else start
        task = launch.only_task
        if task is not None:
            choice = self.kernels[task.kernel].choice
            needs = choice.resources
            held = device.blocks_together(needs.threads, needs.registers, needs.shared_bytes)
            rounds = -(-needs.tasks // max(held, 1))
            free = self._cpu and needs.tasks == 1
            return rounds * task_seconds(choice, device) + (0.0 if free else start)
        free = self._cpu and launch.envelope.units == 1
        return (0.0 if free else start) + self.parts(launch.body, launch.envelope.units, launch.led)

    def parts(
        self, parts: Sequence[Part], units: int, led: bool = False, on: int = 0, apart: bool = False
    ) -> float:
        """Of parts of a launch, with a barrier behind each phase where there is more than one unit.

        Args:
            led: whether unit 0 leads: then barriers stand around phases of other units, and nowhere else.
            on: how many units do what so many would; 0: all.
            apart: whether calls of forks run side by side.
        """
        barrier = meeting_seconds(self.device) if units > 1 else 0.0
        total = 0.0
        for at, part in enumerate(parts):
            if isinstance(part, Phase):
                told = led and wide(part) and (not at or not wide(parts[at - 1]))
                total += (not led or wide(part)) * barrier + told * (barrier + _RECORDS * self.device.step_seconds)
                busy = sum(self._number(x.units, {}) for x in part.lanes)
                total += -(-busy // (on or units)) * max((self._lane(x, {}) for x in part.lanes), default=0.0)
                continue
            if isinstance(part, GridCall):
                total += self._call(part, 0.0 if led else barrier, 1 if led else units)
                continue
            if isinstance(part, Fork):
                each = [self._call(x, 0.0 if led else barrier, 1 if led else units) for x in part.calls]
                # Units are told to divide, and when a call is over; then all meet.
                total += max(each) + 3 * barrier if apart else sum(each)
                continue
            sides = [self.parts(x, units, led, on, apart) for x in (part.body, part.orelse)]
            total += self._control(part, sides)
        return total

    def _call(self, call: GridCall, barrier: float, copying: int) -> float:
        """Of making a call: copies of arguments and results, each in front of a barrier; and of what it runs."""
        records = (len(call.args) + len(call.results) + 3) * _RECORDS * self.device.step_seconds
        sizes = [self._bytes(x) for x in (*call.args, *call.results)]
        # A unit alone gets its share of what memory delivers.
        seconds = sum(x / sharing(x, copying) for x in sizes) / self._bandwidth() * self.device.units
        meetings = 2 - call.early - call.direct - call.late
        return records + seconds + meetings * barrier + self.called(call.procedure)

    def items(self, items: Sequence[Item], env: Mapping[str, int]) -> float:
        """Of what a unit does."""
        device = self.device
        total = 0.0
        for item in items:
            match item:
                case Task():
                    total += self._number(item.count, env) * self._task(item)
                case Fetch():
                    total += item.bytes / self._bandwidth() * device.units
                case Copy():
                    # A unit alone gets its share of what memory delivers.
                    total += self._bytes(item.source) / item.parts / self._bandwidth() * device.units
                case Set():
                    pass
                case BlockControl():
                    total += self._control(item, [self.items(x, env) for x in (item.body, item.orelse)])
            total += 0.0 if self._cpu else _RECORDS * device.step_seconds
        return total

    def _task(self, task: Task) -> float:
        """Of one task; what it finds near its unit does not come from memory."""
        choice = self.kernels[task.kernel].choice
        near = 0 if task.near is None else choice.slice_bytes(task.near.count)
        return in_unit_seconds(choice, self.device, near)

    def _lane(self, lane: Lane, env: Mapping[str, int]) -> float:
        return self.items(lane.items, {UNIT: lane.first, **env})

    def _control(self, control: GridControl | BlockControl, sides: Sequence[float]) -> float:
        device = self.device
        step = _CPU_LAUNCHES * device.launch_seconds if self._cpu else _RECORDS * device.step_seconds
        if not control.counter:
            return step + self._either(sides)
        return step + self.trips_of(control.trip) * (step + sides[0])

    def _either(self, sides: Sequence[float]) -> float:
        return self.taken * sides[0] + (1 - self.taken) * sides[1]

    def trips_of(self, trip: Expr | None) -> int:
        """How often a loop runs, by its trip count."""
        return self.trips if trip is None else self._number(trip, {})

    def _number(self, expr: Expr, env: Mapping[str, int]) -> int:
        if isinstance(expr, Const):
            return int(expr.value)
        symbols = {x.name: x.interval for x in self.symbols}
        try:
            return max(int(evaluate(expr, {**{k: x.high for k, x in symbols.items()}, **env})), 0)
        except KeyError:  # the counter of a loop around
            return max(bounds_of(expr, symbols).high, 0)

    def _bytes(self, name: str) -> int:
        value = self.value_of(name)
        if value is None:
            return 0
        return byte_size(value, {x.name: x.interval for x in self.symbols})

    def _bandwidth(self) -> float:
        return self.device.levels[0].bandwidth
