"""From TIR to a shared library, through LLVM and the system's C compiler as the linker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm.ir import GlobalVar
from tvm.target import Target, codegen
from tvm.tirx import compilation_pipeline, transform

from tilewright.errors import InputError, InternalError
from tilewright.workers import run_tool
from tilewright_backends.lower.types import Prim

_PIPELINE = "tilewright_cpu"


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def _lower(module: Prim, _: Prim) -> Prim:
    """What directly built TIR still needs: it is flat, unrolled and simplified already, and LLVM does the rest."""
    return tvm.ir.transform.Sequential([transform.AnnotateEntryFunc(), transform.MakePackedAPI()])(module)


def _finish() -> Prim:
    """Without `LowerIntrin`, whose analyser takes exponential time over long chains of named selects.

    The emitters name LLVM's own intrinsics and do without flooring divisions, so nothing is left for it.
    """
    return tvm.ir.transform.Sequential([transform.LowerTVMBuiltin()])


def _pipeline() -> tuple[Prim, Prim, Prim]:
    return _lower, _finish, _finish


compilation_pipeline.register_tir_pipeline(_PIPELINE, _pipeline)


def host_cpu() -> str:
    """LLVM's name of this machine's CPU."""
    return str(codegen.llvm_get_system_cpu())


def llvm_target(mcpu: str) -> Target:
    """TVM's target for a CPU. Raises InputError for a name that LLVM does not know."""
    # TVM tags each buffer variable as a type of its own. Once LLVM has inlined two kernels that use one workspace one
    # after the other, it takes their accesses for unrelated and reorders them: so without type-based aliasing.
    # Kernels keep panels on the stack and helpers have registers of their own, so nothing is inlined: each instruction
    # counts for more than LLVM allows. TVM sets values only, and LLVM heeds a threshold only where it was "given".
    options = ["-enable-tbaa=0", "-inline-instr-cost:int=1000000"]
    triple = str(codegen.llvm_get_system_triple())
    target = Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "cl-opt": options})
    if mcpu not in cpu_names():
        raise InputError(f"LLVM knows no CPU {mcpu!r}.", "Use `cpu` for this machine's.")
    return target


def cpu_names() -> frozenset[str]:
    """Every CPU that LLVM knows."""
    return frozenset(str(x) for x in codegen.llvm_get_cpu_archlist(Target("llvm")))


def cpu_features(mcpu: str) -> frozenset[str]:
    """LLVM's names of a CPU's instruction set extensions."""
    return frozenset(str(x) for x in codegen.llvm_get_cpu_features(llvm_target(mcpu)))


def compile_functions(functions: Mapping[GlobalVar, Prim], target: Target) -> Prim:
    """TVM's executable of TIR functions."""
    bound = {name: function.with_attr("target", target) for name, function in functions.items()}
    return tvm.compile(tvm.IRModule(bound), target=target, tir_pipeline=_PIPELINE)


def c_compiler() -> str:
    """The system's C compiler, which links. Raises InputError when there is none."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise InputError(
            "Linking a program needs a C compiler, and none was found.",
            "Install one (`apt install gcc`), or name it in the environment variable CC.",
        )
    if shutil.which(compiler) is None:
        raise InputError(
            f"The environment variable CC names {compiler!r}, which is no program.",
            "Give it the name or path of a C compiler, without options.",
        )
    return compiler


def link(library: Prim, path: Path, helper: str = "") -> None:
    """Writes a compiled module, and C source that it calls, as a shared library.

    Raises:
        InputError: there is no C compiler to link with.
        InternalError: it refuses.
    """
    compiler = c_compiler()
    objects = path.with_suffix(".o")
    library.mod.write_to_file(str(objects))
    # Nothing of the machine or the moment may get into the file: artifacts are byte-identical.
    command = [compiler, "-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,--strip-debug", "-o", str(path)]
    if helper:
        source = path.with_suffix(".c")
        source.write_text(helper, encoding="utf-8")
        command += ["-O2", str(source)]
    done = run_tool([*command, str(objects), "-lm"])
    objects.unlink()
    if done.returncode:
        raise InternalError(f"{compiler} could not link the program: {done.stderr.strip()[-2000:]}")
