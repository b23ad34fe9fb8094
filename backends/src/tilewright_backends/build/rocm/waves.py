"""The kernel of a launch whose units run one task each, of several kernels: a block goes where its number says.

Members stand in branches of one kernel, after their emission and before the code generator. What a block branches by is
the same for all of its threads. Members have the same shared memory, one instead of the other, and the block has as
many threads as the largest of them needs. The waves that a smaller member leaves over end at once: a barrier does not
wait for waves that have ended (AMD, "Instinct MI300 ISA" and "RDNA 3 ISA", S_BARRIER; LLVM, "AMDGPU Execution
Synchronization"; for gfx12, whose barriers are new, only the latter says so), and whether a wave has work is asked of
its first lane, so whole waves leave.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from tvm import tirx
from tvm.ir import Range, StringImm
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Var, const
from tilewright.ir.program import UNIT, Lane, Launch, Phase, Program, Task
from tilewright_backends.build.cuda.builder import MakeWave, filled_shell
from tilewright_backends.build.cuda.source import DeviceKernel, KernelShell, Wave, device_function
from tilewright_backends.build.rocm.source import rocm_target, shell_for, warp_of
from tilewright_backends.emit.gpu.body import i32, pointer
from tilewright_backends.lower.code import Code, sequence
from tilewright_backends.lower.types import Prim, storage

_ALIGNMENT = 1024
_MOST_ITEMS = (1 << 32) - 1
"""Threads of a launch: a dispatch packet counts them with 32 bits (HSA Platform System Architecture Specification)."""

Emitters = Mapping[str, Callable[..., Any]]


def wave_maker(arch: str) -> MakeWave:
    """What makes the kernels of launches of several kernels, for an architecture."""

    def make(launch: Launch, program: Program, emitters: Emitters, number: int) -> Wave:
        return _Builder(launch, program, emitters, number, arch).wave()

    return make


class _Builder:
    def __init__(self, launch: Launch, program: Program, emitters: Emitters, number: int, arch: str) -> None:
        self.launch, self.program, self.emitters, self.arch = launch, program, emitters, arch
        self.name = f"tw_wave_{number}"
        self.code = Code()
        self.unit, self.thread = tirx.Var("unit", "int32"), tirx.Var("thread", "int32")
        self.code.env[UNIT] = self.unit
        self.code.bounds[UNIT] = Interval(0, launch.envelope.units - 1)
        self.shared = tirx.decl_buffer(
            (max(-(-launch.envelope.shared_bytes // 16), 1),),
            "uint32x4",
            "on_chip",
            scope="shared",
            layout=None,
            data_alignment=_ALIGNMENT,
        )
        self.shared_bytes = 0
        self.aliased = False
        lanes = _lanes(launch)
        tasks = [x for _, x in lanes]
        self.args = _ordered(tasks, program)
        self.pointers = {x: pointer(f"p{i}", self._dtype(x)) for i, x in enumerate(self.args)}
        used = {x.name for task in tasks for x in program.kernels[task.kernel].symbols}
        self.symbols = [x for x in program.symbols if x.name in used]
        self.numbers = {x.name: tirx.Var(x.name, "int64") for x in self.symbols}
        for symbol in self.symbols:
            self.code.enter(symbol, self.numbers[symbol.name])
        self.groups = [list(x) for _, x in itertools.groupby(lanes, key=lambda x: x[1].kernel)]

    def _dtype(self, name: str) -> str:
        return storage(self.program.storage.placements[name].value.dtype)

    def wave(self) -> Wave:
        """The kernel with what its launch takes."""
        units, threads = self.launch.envelope.units, self.launch.envelope.threads
        if units * threads > _MOST_ITEMS:
            raise InternalError(f"launch {self.launch.name} has {units} blocks of {threads} threads, too many for one.")
        body = tirx.Evaluate(i32(0))
        for group in reversed(self.groups):
            body = tirx.IfThenElse(self._here(group), self._member(group), body)
        statements = [body]
        if self.shared_bytes:
            statements.insert(0, tirx.AllocBuffer(self.shared))
        body = sequence(statements)
        for variable, tag, extent in ((self.thread, "threadIdx.x", threads), (self.unit, "blockIdx.x", units)):
            axis = tirx.IterVar(Range(0, extent), variable, 1, tag)
            body = tirx.AttrStmt(axis, "thread_extent", i32(extent), body)
        values = tuple(self.program.storage.placements[x].value for x in self.args)
        values = tuple(attrs.evolve(x, name=name) for x, name in zip(values, self.args, strict=True))
        kernel = DeviceKernel(self.name, values, units, threads, 0, False, None, numbers=len(self.numbers))
        params = [*self.pointers.values(), *self.numbers.values()]
        function = device_function(self.name, params, body, rocm_target(self.arch), launched=True)
        function = function.with_attr("tirx.kernel_launch_params", kernel.launch_tags)
        function = function.with_attr("tirx.noalias", not self.aliased)
        return Wave(attrs.evolve(kernel, function=function), self.args, tuple(self.numbers))

    def _here(self, group: Sequence[tuple[Lane, Task]]) -> Prim:
        """Whether the block is one of these lanes'."""
        unit, found = Var(UNIT), []
        for lane, _ in group:
            inside = (const(lane.first) <= unit) & (unit < const(lane.first) + lane.units)
            found.append(self.code.index(self.code.simplify(inside)))
        return functools.reduce(tirx.Or, found)

    def _member(self, group: Sequence[tuple[Lane, Task]]) -> Prim:
        """A kernel's statements, on the values and the task of the lane that the block is in."""
        kernel = self.program.kernels[group[0][1].kernel]
        emitter, shell_of = self.emitters[kernel.choice.recipe], shell_for(self.arch, self.shared)
        shell = filled_shell(kernel, self.program, emitter, shell_of, True)
        self.shared_bytes = max(self.shared_bytes, shell.body.shared_bytes)
        self.aliased |= shell.aliased
        threads, warp = shell.body.threads, warp_of(self.arch)
        inside = shell.body.finish()
        if threads % warp:
            inside = tirx.IfThenElse(tirx.LT(self.thread, i32(threads)), inside, None)
        if -(-threads // warp) < -(-self.launch.envelope.threads // warp):
            first = tirx.call_extern("int32", "tw_first_of_wave", self.thread)
            inside = tirx.IfThenElse(tirx.LT(first, i32(threads)), inside, None)
        return sequence([*self._bound(shell, group), inside])

    def _bound(self, shell: KernelShell, group: Sequence[tuple[Lane, Task]]) -> Iterable[Prim]:
        """What stands for the member's thread, task, pointers and numbers."""
        yield tirx.Bind(shell.body.thread_var, self.thread)
        for name, variable in shell.numbers.items():
            yield tirx.Bind(variable, self.numbers[name])
        with self.code.scope() as statements:
            firsts = [self.code.index(self.code.simplify(task.first), "int32") for _, task in group]
            first = self.code.bind(_of_lane(self.unit, group, firsts, tirx.Select), "task")
        yield from statements
        yield tirx.Bind(shell.body.task_var, first)
        for number, variable in enumerate(shell.pointers):
            pointers = [self.pointers[task.args[number]] for _, task in group]
            yield tirx.Bind(variable, _of_lane(self.unit, group, pointers, _either))


def _of_lane(
    unit: Prim, group: Sequence[tuple[Lane, Task]], values: Sequence[Prim], select: Callable[[Prim, Prim, Prim], Prim]
) -> Prim:
    """Of values for each lane that of the lane which a unit is in."""
    found = values[-1]
    for (following, _), value in zip(reversed(group[1:]), reversed(values[:-1]), strict=True):
        if not found.same_as(value):
            found = select(tirx.LT(unit, i32(following.first)), value, found)
    return found


def _either(condition: Prim, a: Prim, b: Prim) -> Prim:
    """One of two addresses; TIR's own selects take numbers."""
    return tir_op.call_intrin(a.ty, "tirx.call_extern", StringImm("tw_either"), condition, a, b)


def _lanes(launch: Launch) -> list[tuple[Lane, Task]]:
    """The lanes of a launch, each with the one task that its units run."""
    phases = [x for x in launch.body if isinstance(x, Phase)]
    lanes = sorted((x for phase in phases for x in phase.lanes if x.items), key=lambda x: x.first)
    found = [(lane, lane.items[0]) for lane in lanes if len(lane.items) == 1]
    tasks = [(lane, item) for lane, item in found if isinstance(item, Task) and item.count == const(1)]
    if len(launch.body) != 1 or not phases or len(tasks) != len(lanes) or launch.traced:
        raise InternalError(
            f"launch {launch.name}: on ROCm each unit of a launch runs one task, and no unit waits for another."
        )
    return tasks


def _ordered(tasks: Sequence[Task], program: Program) -> tuple[str, ...]:
    """Names of the values of some tasks, once each, those that are written last."""
    outputs = {x.kernel: len(program.kernels[x.kernel].group.outputs) for x in tasks}
    written = dict.fromkeys(name for x in tasks for name in x.args[-outputs[x.kernel] :])
    read = dict.fromkeys(name for x in tasks for name in x.args if name not in written)
    return (*read, *written)
