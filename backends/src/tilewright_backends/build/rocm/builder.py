"""The ROCm builder: a planned program becomes one shared library with host code and a code object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tilewright.device import DeviceModel
from tilewright.ir.program import Program, reads_back
from tilewright.planning.storage import byte_size
from tilewright.planning.weights import weights_of
from tilewright.runtime.native import BuildOutput
from tilewright_backends import buffers, gpus, tvm_env, tvm_log
from tilewright_backends.build.cuda.builder import copy_kernel, device_code, host_module, set_kernel
from tilewright_backends.build.cuda.builder import link as link_library
from tilewright_backends.build.cuda.library import cuda_module, packed_modules
from tilewright_backends.build.cuda.source import DeviceKernel
from tilewright_backends.build.rocm.metadata import KernelFacts, facts_of
from tilewright_backends.build.rocm.source import llvm_source, object_code, shell_for
from tilewright_backends.build.rocm.tools import link, linker
from tilewright_backends.build.rocm.versions import versions
from tilewright_backends.build.rocm.waves import wave_maker
from tilewright_backends.host.cuda import CudaHost, copied, emit_launch, sets_of
from tilewright_backends.host.function import buffer_table, ranges, recursion

READ_BACK = """\
#include <stdint.h>
void* TVMFFIEnvGetStream(int32_t device_type, int32_t device_id);
int hipMemcpyAsync(void* to, const void* from, uint64_t bytes, int kind, void* stream);
int hipStreamSynchronize(void* stream);

/* The scalar at a device address once all launches before are done, 0 when that fails: errors of HIP stay, and the next
   call that the loader checks reports them. */
static void read_back(void* to, const void* from, uint64_t bytes) {
  void* stream = TVMFFIEnvGetStream(10, 0);
  if (hipMemcpyAsync(to, from, bytes, 2, stream) == 0) hipStreamSynchronize(stream);
}
int8_t tw_read_back_int8(const void* from) { int8_t v = 0; read_back(&v, from, sizeof v); return v; }
int32_t tw_read_back_int32(const void* from) { int32_t v = 0; read_back(&v, from, sizeof v); return v; }
int64_t tw_read_back_int64(const void* from) { int64_t v = 0; read_back(&v, from, sizeof v); return v; }
"""
"""C source that is linked into the library of a program whose host part reads values of the device."""


@tvm_log.forwarded()
def build(program: Program, *, target: str, emitters: Mapping[str, Callable[..., Any]], workdir: Path) -> BuildOutput:
    """Generates and assembles the library of a program.

    Args:
        target: `rocm:DEVICE`.
        emitters: by recipe: `emit(body, kernel, specification)` adds one task's code to a kernel's body.
    """
    tvm_env.require_tvm()
    linker()  # missing tools are reported before any work is done
    model = gpus.model("rocm", target.partition(":")[2])
    arch = model.arch
    shell = shell_for(arch)
    device = device_code(program, emitters, model, shell, wave_maker(arch))
    places = program.storage.placements
    sizes = {byte_size(places[name].value, {}) for name in copied(program.steps)} - {0}
    copies = {size: copy_kernel(size, arch, shell) for size in sorted(sizes)}
    scalars = {places[x.target].value.dtype for x in sets_of(program.steps)}
    sets = {dtype: set_kernel(dtype, arch, shell) for dtype in sorted(scalars)}
    kernels = [*device.kernels, *copies.values(), *sets.values()]
    modules: list[bytes] = []
    facts: dict[str, KernelFacts] = {}
    if kernels:
        code = link(object_code(llvm_source(kernels, arch, workdir), workdir), workdir)
        modules.append(cuda_module(code, kernels, "hsaco"))
        facts = facts_of(code)
    host = CudaHost(program, device.alone, device.persistent, copies, sets, device.waves)
    host.run(emit_launch)
    described = {k.name: _described(k, facts[k.name]) for k in kernels}
    known = {name: _code_facts(described[kernel.name], model) for name, kernel in device.alone.items()}
    told = {"arch": arch, "kernels": described, "facts": known, **recursion(program), **ranges(program)}
    data = buffers.described(buffer_table(program), told, target)
    library = workdir / "library.so"
    helper = READ_BACK if reads_back(program.steps) else ""
    link_library(host_module(host.finish(data["entry"])), packed_modules(modules, "hip"), library, workdir, helper)
    return BuildOutput(library, weights_of(program), data, ("runtime",), versions())


def _code_facts(kernel: Mapping[str, int], device: DeviceModel) -> dict[str, int]:
    """What a trial of a kernel is told (`tilewright.planning.trial.CodeFacts`)."""
    fits = [
        device.max_blocks_per_unit,
        device.max_threads_per_unit // kernel["threads"],
        device.level("shared").bytes // max(kernel["shared_bytes"], 1),
        device.registers_per_unit // (max(kernel["registers"], 1) * kernel["threads"]),
    ]
    return {
        "registers": kernel["registers"],
        "spills": kernel["spill_bytes"],
        "shared_bytes": kernel["shared_bytes"],
        "blocks_per_unit": min(fits),
    }


def _described(kernel: DeviceKernel, facts: KernelFacts) -> dict[str, int]:
    return {
        "blocks": kernel.grid,
        "threads": kernel.block,
        "shared_bytes": facts.shared_bytes,
        "registers": facts.registers,
        "spill_bytes": facts.spill_bytes,
        "stack_bytes": facts.stack_bytes,
        "wave": facts.wave,
    }
