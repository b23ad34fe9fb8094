"""The CUDA builder: a planned program becomes one shared library with host code and machine code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import tvm
from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx import transform

from tilewright.device import DeviceModel
from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.graphs import capturable, graph_control
from tilewright.ir.ops import value
from tilewright.ir.program import Kernel, Launch, Program, launches, reads_back
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.storage import byte_size
from tilewright.planning.weights import weights_of
from tilewright.runtime.native import BuildOutput
from tilewright.views.subject import subject_of
from tilewright.workers import run_tool
from tilewright_backends import buffers, gpus, tvm_env, tvm_log
from tilewright_backends.build.cuda.compile import KernelFacts, compile_source
from tilewright_backends.build.cuda.dispatcher import PREAMBLE, Persistent, persistent
from tilewright_backends.build.cuda.graph import compile_graph, counted, graph_kernels
from tilewright_backends.build.cuda.library import assembly, cuda_module, packed_modules
from tilewright_backends.build.cuda.records import nearby
from tilewright_backends.build.cuda.source import DeviceKernel, KernelShell, Wave, cuda_source
from tilewright_backends.build.cuda.versions import versions
from tilewright_backends.build.llvm import c_compiler
from tilewright_backends.emit.gpu import copy
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.host.capture import CAPTURE
from tilewright_backends.host.cuda import READ_BACK, CudaHost, copied, emit_launch, sets_of
from tilewright_backends.host.function import buffer_table, ranges, recursion
from tilewright_backends.lower.types import Prim
from tilewright_backends.timeline import traced


@tvm_log.forwarded()
def build(program: Program, *, target: str, emitters: Mapping[str, Callable[..., Any]], workdir: Path) -> BuildOutput:
    """Generates and compiles the library of a program.

    Args:
        target: `cuda:DEVICE`.
        emitters: by recipe: `emit(body, kernel, specification)` adds one task's code to a kernel's body.
    """
    tvm_env.require_tvm()
    device = gpus.model("cuda", target.partition(":")[2])
    arch = device.arch
    code = device_code(program, emitters, device)
    places = program.storage.placements
    sizes = {byte_size(places[name].value, {}) for name in copied(program.steps)} - {0}
    copies = {size: copy_kernel(size, arch) for size in sorted(sizes)}
    scalars = {places[x.target].value.dtype for x in sets_of(program.steps)}
    sets = {dtype: set_kernel(dtype, arch) for dtype in sorted(scalars)}
    kernels = [*code.kernels, *copies.values(), *sets.values()]
    modules, facts = [], {}
    if kernels:
        source = cuda_source(kernels, arch, code.preamble)
        compiled = compile_source(source, arch, workdir)
        kernels = [x for x in kernels if x.role == "kernel"]
        modules.append(cuda_module(compiled.cubin, kernels))
        facts = dict(compiled.facts)
    written = counted(program, arch)
    deciding = graph_kernels(program, written)
    if deciding:
        compiled = compile_graph(deciding, arch, workdir)
        modules.append(cuda_module(compiled.cubin, deciding))
        facts |= compiled.facts
    host = CudaHost(program, code.alone, code.persistent, copies, sets, counted=written)
    host.run(emit_launch)
    described = {k.name: _described(k, facts.get(k.name)) for k in (*kernels, *deciding)}
    told = {"arch": arch, "capturable": capturable(program.body), "kernels": described}
    meeting = {name: x.kernel.name for name, x in code.persistent.items() if x.kernel.cooperative}
    told |= {"cooperative": meeting} if meeting else {}
    recorded = {x.name: traced(x, program, code.persistent[x.name].names) for x in launches(program.steps) if x.traced}
    told |= {"traced": recorded} if recorded else {}
    told |= {"conditional": sum(1 for _ in graph_control(program.body))} if deciding else {}
    told |= {**recursion(program), **ranges(program)}
    data = buffers.described(buffer_table(program), told, target)
    library = workdir / "library.so"
    helper = READ_BACK if deciding or reads_back(program.steps) else ""
    helper += CAPTURE if deciding else ""
    link(host_module(host.finish(data["entry"])), packed_modules(modules), library, workdir, helper)
    return BuildOutput(library, weights_of(program), data, ("runtime",), versions())


MakeShell = Callable[..., KernelShell]
MakeWave = Callable[[Launch, Program, Mapping[str, Callable[..., Any]], int], Wave]


@attrs.frozen
class DeviceCode:
    """What a program's launches run on the device.

    Args:
        alone: kernels that are launched as they are, by the names of the program's kernels.
        members: the same as members of persistent kernels.
        persistent: the kernels of all other launches, by the launches' names.
        waves: the same where the device's kind has kernels for waves instead.
    """

    alone: Mapping[str, DeviceKernel]
    members: Mapping[str, DeviceKernel]
    persistent: Mapping[str, Persistent]
    waves: Mapping[str, Wave] = attrs.field(factory=dict)

    @property
    def kernels(self) -> list[DeviceKernel]:
        """All device functions."""
        helpers = [helper for x in self.persistent.values() for helper in x.helpers]
        several = [x.kernel for x in self.persistent.values()] + [x.kernel for x in self.waves.values()]
        return [*self.alone.values(), *self.members.values(), *helpers, *several]

    @property
    def preamble(self) -> str:
        """What the source of the persistent kernels needs in front."""
        return PREAMBLE if self.persistent else ""


def device_code(
    program: Program,
    emitters: Mapping[str, Callable[..., Any]],
    device: DeviceModel,
    shell_of: MakeShell = KernelShell,
    wave_of: MakeWave | None = None,
) -> DeviceCode:
    """The code of all launches. Each kernel is there once alone and once as a member, as far as launches use it so.

    Args:
        emitters: as `build` gets them.
        shell_of: makes the shells of kernels for the device's kind.
        wave_of: makes the kernel of a launch of several kernels, with the launch's number; None: a persistent one.
    """

    def emitted(name: str, member: bool) -> DeviceKernel:
        kernel = program.kernels[name]
        emitter, near = emitters[kernel.choice.recipe], member and name in close
        return device_kernel(kernel, program, emitter, device.arch, shell_of, member, near)

    steps = launches(program.steps)
    simple = {x.kernel for launch in steps if (x := launch.only_task) is not None}
    several = [x for x in steps if x.only_task is None]
    close = nearby(program)
    alone = {name: emitted(name, False) for name in program.kernels if name in simple}
    if wave_of is not None:
        waves = {x.name: wave_of(x, program, emitters, number) for number, x in enumerate(several)}
        return DeviceCode(alone, {}, {}, waves)
    called = (p.parts for p in program.procedures.values())
    inside = {task.kernel for parts in (*(x.body for x in several), *called) for task in tasks_of(parts)}
    members = {name: emitted(name, True) for name in program.kernels if name in inside}
    made = {x.name: persistent(x, program, members, number, device) for number, x in enumerate(several)}
    return DeviceCode(alone, members, made)


def device_kernel(
    kernel: Kernel,
    program: Program,
    emitter: Callable[..., Any],
    arch: str,
    shell_of: MakeShell = KernelShell,
    member: bool = False,
    near: bool = False,
) -> DeviceKernel:
    """The device function of one kernel, as a `member` of persistent kernels; empty where no result has an element.

    Args:
        near: whether it reads slices of its operands wherever a pointer of their own says.
    """
    return filled_shell(kernel, program, emitter, shell_of, member, near).finish(arch)


def filled_shell(
    kernel: Kernel,
    program: Program,
    emitter: Callable[..., Any],
    shell_of: MakeShell,
    member: bool,
    near: bool = False,
) -> KernelShell:
    """The parameters and the statements of one kernel."""
    resources = kernel.choice.resources
    # A result may be placed over an operand that dies here only when the operator allows it in place.
    inplace = any(getattr(op, "inplace", "") for op in kernel.group.ops)
    shape = (resources.threads, resources.tasks)
    name = f"tw_member_{kernel.name}" if member else f"tw_{kernel.name}"
    slices = [kernel.params[x] for x in kernel.sliced] if near else []
    shell = shell_of(name, kernel.params, *shape, inplace, (), kernel.symbols, member, slices)
    if any(x.num_elements() != const(0) for x in kernel.group.outputs):
        subject = subject_of(kernel.group, program.constants, kernel.symbols)
        if subject is None:
            raise InternalError(f"kernel {kernel.name} is nothing that recipe {kernel.choice.recipe} could emit.")
        emitter(shell.body, kernel, subject)
    if shell.body.shared_bytes > resources.shared_bytes:
        raise InternalError(
            f"kernel {kernel.name} takes {shell.body.shared_bytes} bytes of shared memory, but recipe "
            f"{kernel.choice.recipe} announced {resources.shared_bytes}."
        )
    return shell


def copy_kernel(size: int, arch: str, shell_of: MakeShell = KernelShell) -> DeviceKernel:
    """The device function that copies `size` bytes from its first pointer to its second."""
    source, target = value("source", "uint8", (size,)), value("target", "uint8", (size,))
    _, words = copy.word_of(size)
    shell = shell_of(f"tw_copy_{size}", (source, target), copy.THREADS, -(-words // copy.THREADS))
    copy.statements(shell.body, source.name, target.name, size)
    return shell.finish(arch)


def set_kernel(dtype: str, arch: str, shell_of: MakeShell = KernelShell) -> DeviceKernel:
    """The device function that writes the number that it is given into a scalar."""
    target = value("target", dtype, ())
    shell = shell_of(f"tw_set_{dtype}", (target,), 1, 1, numbers=("number",))
    body = shell.body
    cell = body.params[target.name]
    body.store(cell, i32(0), tirx.Cast(str(cell.dtype), shell.numbers["number"]))
    return shell.finish(arch)


def host_module(function: Prim) -> Prim:
    """LLVM code of the host function."""
    target = Target({"kind": "llvm", "mtriple": str(codegen.llvm_get_system_triple()), "mcpu": "x86-64"})
    bound = function.with_attr("target", target.with_host(target)).with_attr("tirx.is_entry_func", True)
    module = tvm.IRModule({str(function.attrs["global_symbol"]): bound})
    passes = [
        transform.FlattenBuffer(),
        transform.MakePackedAPI(),
        transform.LowerTVMBuiltin(),
        transform.LowerIntrin(),
    ]
    with target:
        module = tvm.ir.transform.Sequential(passes)(module)
        return tvm.get_global_func("target.build.llvm")(module, target)


def link(host: Prim, modules: bytes, path: Path, workdir: Path, helper: str = "") -> None:
    """Writes host code, packed device modules and C source as a shared library."""
    objects, blob, source = workdir / "host.o", workdir / "modules.bin", workdir / "modules.S"
    host.write_to_file(str(objects), "o")
    blob.write_bytes(modules)
    source.write_text(assembly(blob.name), encoding="utf-8")
    compiler = c_compiler()
    command = [compiler, "-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,--strip-debug", "-Wa,-I."]
    command += ["-o", str(path.resolve()), objects.name, source.name]
    if helper:
        Path(workdir, "helper.c").write_text(helper, encoding="utf-8")
        command += ["-O2", "helper.c"]
    done = run_tool(command, cwd=workdir)
    if done.returncode:
        raise InternalError(f"{compiler} could not link the program: {done.stderr.strip()[-2000:]}")


def _described(kernel: DeviceKernel, facts: KernelFacts | None) -> dict[str, int]:
    found = {"blocks": kernel.grid, "threads": kernel.block, "shared_bytes": kernel.shared_bytes}
    if facts is not None:
        found |= {"registers": facts.registers, "spill_bytes": facts.spill_bytes, "stack_bytes": facts.stack_bytes}
    return found
