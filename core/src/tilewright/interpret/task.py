"""The meaning of a program on tasks, with NumPy: one task after the other, in any legal order, on poisoned storage.

Values live in the bytes that `Program.storage` gives them. Memory is poisoned before a value's lifetime and after it,
so a lifetime that is too short, a value that is never written, or a missing wait shows up as a wrong result under some
seed. A task computes its part of its kernel's outputs from what the inputs' bytes hold at that moment.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.errors import InputError, InternalError
from tilewright.interpret.evaluate import evaluate
from tilewright.interpret.tensor import interpret, learn
from tilewright.ir import dtypes
from tilewright.ir.calls import too_deep
from tilewright.ir.expr import Expr, const
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import Region
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
    Item,
    Kernel,
    Launch,
    Phase,
    Program,
    Set,
    Signal,
    Step,
    Task,
    Wait,
    copied_part,
    next_number,
    sides_of,
    spans,
)
from tilewright.ir.specialise import specialised
from tilewright.ir.subgrids import Subgrid, Subgrids, whole

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Env = Mapping[str, int]
Calling = HostCall | GridCall
Running = Generator[Calling | Fork | None, None, None]
"""Steps at work: yields each call and fork, and goes on when it has been made; and None where others may take turns."""
Action = Callable[[], bool]
"""Does one thing of a unit, or returns False because it has to wait."""

Part = Callable[[Kernel, int, int], "Sequence[tuple[int, int]] | None"]
"""(kernel, parameter, task) -> half-open element ranges of an output that the task writes."""

_PLACED = ("program", "frame", "region")
"""Owners of buffers in which values come and go with the steps."""

POISON = 0xFF
"""Every byte of memory that holds no value: NaN in floats, -1 in integers."""


def equal_parts(kernel: Kernel, parameter: int, task: int) -> Sequence[tuple[int, int]]:
    """A cut of an output into as many consecutive parts as the kernel has tasks."""
    size = int(np.prod(kernel.params[parameter].static_shape(), dtype=np.int64))
    tasks = kernel.choice.resources.tasks
    return [(size * task // tasks, size * (task + 1) // tasks)]


def run_tasks(program: Program, inputs: Sequence[Array], seed: int = 0, part: Part = equal_parts) -> tuple[Array, ...]:
    """The outputs of a program. The shapes of the inputs give its symbols their values.

    Args:
        inputs: an array per input, of its dtype and shape.
        seed: picks the order in which units take turns.
        part: what a task writes.

    Raises:
        InputError: an input is of another dtype or shape; more calls are active than the program allows.
        InternalError: all units wait for ever, or a kernel refuses what it reads.
    """
    if program.symbols:
        values: dict[str, int] = {}
        for value, array in zip(program.inputs, inputs, strict=True):
            learn(value, array.shape, program.symbols, values)
        program = specialised(program, values)
    machine = _Machine(program, random.Random(seed), part)
    for value, array in zip(program.inputs, inputs, strict=True):
        if array.dtype != dtypes.to_numpy(value.dtype) or array.shape != value.static_shape():
            raise InputError(
                f"Input {value.name} must be {value.dtype}{list(value.static_shape())}, "
                f"found {array.dtype}{list(array.shape)}."
            )
        machine.memory.store(value.name, array)
    for name, constant in program.constants.items():
        if name in program.storage.placements:
            machine.memory.store(name, constant.data)
    machine.run()
    return tuple(machine.memory.load(x.name).copy() for x in program.outputs)


class _Memory:
    """The bytes of all buffers; a unit's own buffers exist once per unit, a frame's once per active call of a region.

    Attributes:
        region: of what is at work.
        depth: number of active calls that it is in.
    """

    def __init__(self, program: Program) -> None:
        self._storage = program.storage
        self._bytes: dict[tuple[str, int, int], Bytes] = {}
        self.region = self.depth = 0

    def view(self, name: str, unit: int = 0) -> Bytes:
        """The bytes of a value."""
        placement = self._storage.placements[name]
        buffer = self._storage.buffers[placement.buffer]
        region = self.region if buffer.owner in ("frame", "region") else 0
        key = (buffer.name, region, {"unit": unit, "frame": self.depth}.get(buffer.owner, 0))
        if key not in self._bytes:
            self._bytes[key] = np.full(buffer.bytes, POISON, np.uint8)
        size = int(np.prod(placement.value.static_shape(), dtype=np.int64)) * dtypes.size_of(placement.value.dtype)
        return self._bytes[key][placement.offset : placement.offset + size]

    def load(self, name: str, unit: int = 0) -> Array:
        """The array of a value (a view of its bytes)."""
        value = self._storage.placements[name].value
        return self.view(name, unit).view(dtypes.to_numpy(value.dtype)).reshape(value.static_shape())

    def store(self, name: str, array: Array) -> None:
        """Puts an array in the place of a value."""
        self.view(name)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def new_launch(self) -> None:
        """Forgets what belonged to the last launch and to its units."""
        for key in [k for k in self._bytes if self._storage.buffers[k[0]].owner in ("launch", "unit")]:
            del self._bytes[key]

    def new_frame(self, depth: int) -> None:
        """Forgets what belonged to a call at this depth."""
        for name, buffer in self._storage.buffers.items():
            if buffer.owner == "frame":
                self._bytes.pop((name, self.region, depth), None)

    def new_region(self, region: int) -> None:
        """Forgets what calls in a region have left."""
        for name, buffer in self._storage.buffers.items():
            if buffer.owner == "region":
                self._bytes.pop((name, region, 0), None)

    def poison(self, step: int, at: str) -> None:
        """Poisons the values whose lifetime begins (`at` "first") or has ended (`at` "last") with a step."""
        for name, placement in self._storage.placements.items():
            buffer = self._storage.buffers[placement.buffer]
            kinds = ("workspace", "output") if at == "first" else ("workspace",)
            if getattr(placement, at) == step and buffer.kind in kinds and buffer.owner in _PLACED:
                self.view(name)[:] = POISON


@attrs.define(eq=False)
class _Strand:
    """What the host, or a part of the units of a launch, does by itself.

    Args:
        stack: steps at work, each with the call that runs them and the region of its caller.
        grid: units that it has.
        depth: active calls that it is in.
        forked: what it began in.

    Attributes:
        others: strands that it waits for.
    """

    stack: list[tuple[Running, Calling | None, int]]
    grid: Subgrid
    depth: int = 0
    forked: _Strand | None = None
    others: int = 0


@attrs.define
class _Machine:
    program: Program
    random: random.Random
    part: Part
    memory: _Memory = attrs.field(init=False)
    _results: dict[tuple[str, bytes], tuple[Array, ...]] = attrs.field(factory=dict, init=False)
    _signals: dict[tuple[str, int], int] = attrs.field(factory=dict, init=False)
    _signalled: bool = attrs.field(default=False, init=False)
    _strands: list[_Strand] = attrs.field(factory=list, init=False)
    _spans: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)
    _subgrids: Subgrids = attrs.field(factory=Subgrids, init=False)
    """Of the launch at work."""

    def __attrs_post_init__(self) -> None:
        self.memory = _Memory(self.program)

    def run(self) -> None:
        """Runs the program, calls on a stack of their own; calls side by side take turns at random."""
        self._spans = spans(self.program.body, self.program.procedures.values())
        self._strands = [_Strand([(self._steps(self.program.body, {}, 0), None, 0)], whole(1))]
        while self._strands:
            able = [x for x in self._strands if not x.others]
            self._advance(able[0] if len(able) == 1 else self.random.choice(able))

    def _advance(self, strand: _Strand) -> None:
        """Lets a strand go on to its next call, its end, or where others may take turns."""
        self.memory.region, self.memory.depth = strand.grid.region, strand.depth
        if not strand.stack:
            self._strands.remove(strand)
            if strand.forked is not None:
                strand.forked.others -= 1
            return
        running, call, home = strand.stack[-1]
        found = next(running, _OVER)
        if isinstance(found, Fork):
            self._fork(found, strand)
        elif isinstance(found, HostCall | GridCall):
            self._enter(found, strand)
        elif found is _OVER:
            strand.stack.pop()
            if call is not None:
                self._leave(call, home, strand)

    def _fork(self, fork: Fork, strand: _Strand) -> None:
        """Makes the calls of a fork one after another, or begins a strand for each."""
        parts = self._subgrids.divided(strand.grid, len(fork.calls))
        if not parts:
            strand.stack.append((_each(fork.calls), None, 0))
            return
        strand.others = len(parts)
        for grid, call in zip(parts, fork.calls, strict=True):
            if grid.region != strand.grid.region:
                self.memory.new_region(grid.region)
            self._strands.append(_Strand([(_each((call,)), None, 0)], grid, strand.depth, strand))

    def _enter(self, call: Calling, strand: _Strand) -> None:
        """Copies arguments into the frame of a call, which is new and so poisoned."""
        if strand.depth == self.program.depth:
            raise too_deep(call.procedure, self.program.depth)
        number, _ = self._spans[call.procedure]
        procedure, region = self.program.procedures[call.procedure], strand.grid.region
        first = strand.forked is not None and len(strand.stack) == 1
        home = strand.forked.grid.region if first and strand.forked is not None else region
        self.memory.region = home
        args = [self.memory.load(x).copy() for x in call.args]
        strand.depth += 1
        self.memory.region, self.memory.depth = region, strand.depth
        self.memory.new_frame(strand.depth)
        self.memory.poison(number, "first")
        for param, array in zip(procedure.params, args, strict=True):
            self.memory.store(param, array)
        self.memory.poison(number, "last")
        strand.stack.append((self._steps(procedure.body, {}, number + 1), call, home))

    def _leave(self, call: Calling, home: int, strand: _Strand) -> None:
        """Copies results out of the frame of a call into what the region of its caller holds."""
        _, number = self._spans[call.procedure]
        self.memory.poison(number, "first")
        results = [self.memory.load(x).copy() for x in self.program.procedures[call.procedure].results]
        self.memory.poison(number, "last")
        self.memory.new_frame(strand.depth)
        strand.depth -= 1
        self.memory.region, self.memory.depth = home, strand.depth
        for name, array in zip(call.results, results, strict=True):
            self.memory.store(name, array)

    def _steps(self, steps: Sequence[Step], env: Env, number: int) -> Running:
        """Runs steps of which the first has a number, as `Placement` counts them."""
        for step in steps:
            self.memory.poison(number, "first")
            after = next_number((step,), number)
            match step:
                case Launch():
                    self.memory.new_launch()
                    self._signals.clear()
                    self._subgrids = step.subgrids
                    self._strands[0].grid = whole(step.envelope.units)
                    yield from self._parts(step.body, env)
                case Phase():
                    self._phase(step, env)
                    yield None
                case HostCopy():
                    self._copy(step, env)
                case HostSet():
                    self.memory.load(step.target)[...] = _number(step.value, env)
                case HostCall() | GridCall() | Fork():
                    yield step
                case HostLoop() | GridControl() if step.counter:
                    for trip in self._trips(step, env):
                        yield from self._steps(step.body, {**env, step.counter: trip}, number + 1)
                case HostIf() | GridControl():
                    then, orelse = sides_of(step)
                    if self._holds(step.condition):
                        yield from self._steps(then, env, number + 1)
                    else:
                        yield from self._steps(orelse, env, next_number(then, number + 1))
            self.memory.poison(after - 1, "last")
            number = after

    def _copy(self, copy: HostCopy | Copy, env: Env, unit: int = 0) -> None:
        target, source = self.memory.view(copy.target, unit), self.memory.view(copy.source, unit)
        first = 0 if copy.row is None else _number(copy.row, env) * source.size
        if first < 0 or first + source.size > target.size:
            raise InternalError(f"The copy of {copy.source} to {copy.target} goes past its end.")
        low, high = 0, source.size
        if isinstance(copy, Copy):
            low, high = (_number(x, env) for x in copied_part(copy, const(source.size)))
        target[first + low : first + high] = source[low:high]

    def _holds(self, condition: str, unit: int = 0) -> bool:
        return bool(self.memory.view(condition, unit)[0] == 1)

    def _trips(self, loop: HostLoop | GridControl | BlockControl, env: Env, unit: int = 0) -> Iterator[int]:
        limits = [] if loop.trip is None else [_number(loop.trip, env)]
        limits += [self.memory.load(loop.limit, unit).item()] if loop.limit else []
        done = 0
        while all(done < x for x in limits) and (not loop.condition or self._holds(loop.condition, unit)):
            yield done
            done += 1

    def _parts(self, parts: Sequence[Phase | GridControl | GridCall | Fork], env: Env) -> Running:
        """Runs the parts of a launch, all in one step."""
        for part in parts:
            if isinstance(part, Phase):
                self._phase(part, env)
            elif isinstance(part, GridCall | Fork):
                yield part
            elif part.counter:
                for trip in self._trips(part, env):
                    yield from self._parts(part.body, {**env, part.counter: trip})
            else:
                yield from self._parts(part.body if self._holds(part.condition) else part.orelse, env)

    def _phase(self, phase: Phase, env: Env) -> None:
        """Lets the units take turns at random until all are done."""
        units: list[tuple[int, Iterator[Action]]] = []
        for lane in phase.lanes:
            for unit in range(lane.first, lane.first + _number(lane.units, env)):
                units.append((unit, self._items(lane.items, {**env, UNIT: unit}, unit)))
        pending: dict[int, Action] = {}
        blocked: list[int] = []
        ready = list(range(len(units)))
        while ready or blocked:
            if self._signalled:
                ready, blocked = ready + blocked, []
                self._signalled = False
            if not ready:
                raise InternalError(f"Units {sorted(units[x][0] for x in blocked)} wait for signals that never come.")
            at = self.random.randrange(len(ready))
            ready[at], ready[-1] = ready[-1], ready[at]
            who = ready.pop()
            action = pending.pop(who, None) or next(units[who][1], None)
            if action is None:
                continue
            if action():
                ready.append(who)
            else:
                pending[who] = action
                blocked.append(who)

    def _items(self, items: Sequence[Item], env: Env, unit: int) -> Iterator[Action]:
        for item in items:
            match item:
                case Task():
                    first, count, stride = (_number(x, env) for x in (item.first, item.count, item.stride))
                    for i in range(count):
                        yield self._task(item, first + i * stride, unit)
                case Copy() | Set():
                    yield self._moves(item, env, unit)
                case Fetch():
                    pass  # where a task reads a constant changes nothing
                case Signal():
                    yield self._signal((item.event, _number(item.index, env)))
                case Wait():
                    yield self._wait((item.event, _number(item.index, env)), _number(item.target, env))
                case BlockControl() if item.counter:
                    for trip in self._trips(item, env, unit):
                        yield from self._items(item.body, {**env, item.counter: trip}, unit)
                case BlockControl():
                    taken = item.body if self._holds(item.condition, unit) else item.orelse
                    yield from self._items(taken, env, unit)

    def _signal(self, key: tuple[str, int]) -> Action:
        def act() -> bool:
            self._signals[key] = self._signals.get(key, 0) + 1
            self._signalled = True
            return True

        return act

    def _wait(self, key: tuple[str, int], target: int) -> Action:
        return lambda: self._signals.get(key, 0) >= target

    def _moves(self, item: Copy | Set, env: Env, unit: int) -> Action:
        def act() -> bool:
            if isinstance(item, Copy):
                self._copy(item, env, unit)
            else:
                self.memory.load(item.target, unit)[...] = _number(item.value, env)
            return True

        return act

    def _task(self, task: Task, number: int, unit: int) -> Action:
        def act() -> bool:
            kernel = self.program.kernels[task.kernel]
            results = self._outputs(kernel, task, unit)
            for i, result in enumerate(results, len(kernel.params) - len(results)):
                target = self.memory.load(task.args[i], unit).reshape(-1)
                ranges = self.part(kernel, i, number)
                for low, high in equal_parts(kernel, i, number) if ranges is None else ranges:
                    target[low:high] = result.reshape(-1)[low:high]
            return True

        return act

    def _outputs(self, kernel: Kernel, task: Task, unit: int) -> tuple[Array, ...]:
        """What the kernel makes of its inputs as they are now (remembered by their contents)."""
        arrays = self._inputs(kernel, task, unit)
        digest = hashlib.blake2b(b"".join(hashlib.blake2b(x.tobytes()).digest() for x in arrays)).digest()
        found = self._results.get((kernel.name, digest))
        if found is None:
            group = kernel.group
            module = Module({"main": Function("main", Region(group.inputs, group.ops, group.outputs))})
            found = interpret(module, arrays)
            self._results[kernel.name, digest] = found
        return found

    def _inputs(self, kernel: Kernel, task: Task, unit: int) -> list[Array]:
        actual = {p.name: a for p, a in zip(kernel.params, task.args, strict=True)}
        for _, packed in kernel.packed:
            # a packed operand holds the same numbers as the constant that it was packed from
            source = self.program.packed[packed.name].access.value.name
            actual.setdefault(source, self.program.packed[actual[packed.name]].access.value.name)
        arrays = []
        for value in kernel.group.inputs:
            name = actual[value.name]
            if name in self.program.storage.placements:
                arrays.append(self.memory.load(name, unit).reshape(value.static_shape()).copy())
            else:
                arrays.append(self.program.constants[name].data.reshape(value.static_shape()))
        return arrays


def _each(calls: Sequence[Calling]) -> Running:
    yield from calls


_OVER = object()


def _number(expr: Expr, env: Env) -> int:
    return int(evaluate(expr, env))
