"""Elementary functions on AMD GPUs: those of the device libraries (OCML), whose bitcode is linked to the kernels."""

from __future__ import annotations

from tvm.tirx.op import call_pure_extern

from tilewright_backends.emit.gpu.semantics import GpuSemantics
from tilewright_backends.lower.types import Prim, element


class RocmSemantics(GpuSemantics):
    """`Semantics` whose functions are OCML's."""

    def library(self, name: str, *args: Prim) -> Prim:
        dtype = element(args[0])
        return call_pure_extern(dtype, f"__ocml_{name}_f{dtype.removeprefix('float')}", *args)
