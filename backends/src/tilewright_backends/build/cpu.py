"""The CPU's builder: a planned program becomes one shared library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvm.ir import GlobalVar

from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.program import Kernel, Program
from tilewright.planning.weights import weights_of
from tilewright.runtime.native import BuildOutput
from tilewright.views.subject import subject_of
from tilewright_backends import buffers, cpu_features, tvm_env, tvm_log
from tilewright_backends.build import llvm
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted
from tilewright_backends.emit.cpu.semantics import CpuSemantics
from tilewright_backends.host.cpu import WAITING, emit_launch, together
from tilewright_backends.host.function import HostFunction, buffer_table, ranges, recursion
from tilewright_backends.lower.types import Prim


@tvm_log.forwarded()
def build(program: Program, *, target: str, emitters: Mapping[str, Callable[..., Any]], workdir: Path) -> BuildOutput:
    """Generates and compiles the library of a program.

    Args:
        target: `cpu:MCPU`.
        emitters: by recipe: `emit(kernel, subject, semantics)` gives the kernel's TIR functions.
    """
    tvm_env.require_tvm()
    mcpu = target.partition(":")[2]
    llvm_target = llvm.llvm_target(mcpu)
    semantics = CpuSemantics("fma" in llvm.cpu_features(mcpu))
    names = {name: GlobalVar(name) for name in program.kernels}
    functions: dict[GlobalVar, Prim] = {}
    for name, kernel in program.kernels.items():
        emitted = emit_kernel(kernel, program, emitters[kernel.choice.recipe], semantics)
        functions |= {names[name]: emitted.function, **emitted.helpers}
    host = HostFunction(program, names)
    host.run(emit_launch)
    facts: dict[str, Any] = {"mcpu": mcpu, "features": cpu_features.needed(llvm.cpu_features(mcpu))}
    waiting = together(program)
    if waiting:
        facts["together"] = waiting
    data = buffers.described(buffer_table(program), {**facts, **recursion(program), **ranges(program)}, target)
    functions[GlobalVar(data["entry"])] = host.finish(data["entry"])
    library = workdir / "library.so"
    llvm.link(llvm.compile_functions(functions, llvm_target), library, WAITING if waiting else "")
    return BuildOutput(library, weights_of(program), data, ("runtime",), versions())


def emit_kernel(kernel: Kernel, program: Program, emitter: Callable[..., Emitted], semantics: CpuSemantics) -> Emitted:
    """The TIR functions of one kernel; an empty one where no result has an element."""
    if all(x.num_elements() == const(0) for x in kernel.group.outputs):
        return CpuFunction(kernel, semantics).finish()
    subject = subject_of(kernel.group, program.constants, kernel.symbols)
    if subject is None:
        raise InternalError(f"kernel {kernel.name} is nothing that recipe {kernel.choice.recipe} could emit.")
    return emitter(kernel, subject, semantics)


def versions() -> dict[str, str]:
    """Versions that generated code depends on, from metadata."""
    return tvm_env.versions()
