"""The CUDA builder: a planned program becomes one shared library with host code and machine code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx import transform

from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.ops import value
from tilewright.ir.program import Kernel, Program
from tilewright.planning.storage import byte_size
from tilewright.planning.weights import weights_of
from tilewright.runtime.native import BuildOutput
from tilewright.views.subject import subject_of
from tilewright.workers import run_tool
from tilewright_backends import buffers, gpus, tvm_env, tvm_log
from tilewright_backends.build.cuda.compile import KernelFacts, compile_source
from tilewright_backends.build.cuda.library import assembly, cuda_module, packed_modules
from tilewright_backends.build.cuda.source import DeviceKernel, KernelShell, cuda_source
from tilewright_backends.build.cuda.versions import versions
from tilewright_backends.build.llvm import c_compiler
from tilewright_backends.emit.gpu import copy
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.host.cuda import READ_BACK, CudaHost, capturable, copied, emit_launch, reads_back, sets_of
from tilewright_backends.host.function import buffer_table, ranges, recursion
from tilewright_backends.lower.types import Prim


@tvm_log.forwarded()
def build(program: Program, *, target: str, emitters: Mapping[str, Callable[..., Any]], workdir: Path) -> BuildOutput:
    """Generates and compiles the library of a program.

    Args:
        target: `cuda:DEVICE`.
        emitters: by recipe: `emit(body, kernel, specification)` adds one task's code to a kernel's body.
    """
    tvm_env.require_tvm()
    arch = gpus.arch("cuda", target.partition(":")[2])
    device = {
        name: device_kernel(kernel, program, emitters[kernel.choice.recipe], arch)
        for name, kernel in program.kernels.items()
    }
    places = program.storage.placements
    sizes = {byte_size(places[name].value, {}) for name in copied(program.steps)} - {0}
    copies = {size: copy_kernel(size, arch) for size in sorted(sizes)}
    scalars = {places[x.target].value.dtype for x in sets_of(program.steps)}
    sets = {dtype: set_kernel(dtype, arch) for dtype in sorted(scalars)}
    kernels = [*device.values(), *copies.values(), *sets.values()]
    modules, facts = [], {}
    if kernels:
        source = cuda_source(kernels, arch)
        compiled = compile_source(source, arch, workdir)
        modules.append(cuda_module(compiled.cubin, kernels))
        facts = dict(compiled.facts)
    host = CudaHost(program, device, copies, sets)
    host.run(emit_launch)
    described = {k.name: _described(k, facts.get(k.name)) for k in kernels}
    told = {"arch": arch, "capturable": capturable(program.body), "kernels": described}
    told |= {**recursion(program), **ranges(program)}
    data = buffers.described(buffer_table(program), told, target)
    library = workdir / "library.so"
    helper = READ_BACK if reads_back(program.steps) else ""
    link(host_module(host.finish(data["entry"])), packed_modules(modules), library, workdir, helper)
    return BuildOutput(library, weights_of(program), data, ("runtime",), versions())


MakeShell = Callable[..., KernelShell]


def device_kernel(
    kernel: Kernel, program: Program, emitter: Callable[..., Any], arch: str, shell_of: MakeShell = KernelShell
) -> DeviceKernel:
    """The device function of one kernel; an empty one where no result has an element."""
    resources = kernel.choice.resources
    # A result may be placed over an operand that dies here only when the operator allows it in place.
    inplace = any(getattr(op, "inplace", "") for op in kernel.group.ops)
    shape = (resources.threads, resources.tasks)
    shell = shell_of(f"tw_{kernel.name}", kernel.params, *shape, inplace, (), kernel.symbols)
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
    return shell.finish(arch)


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
