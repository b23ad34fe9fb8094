"""Elementary functions on CUDA: those of the CUDA math library; minimum and maximum in one instruction."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.op import call_pure_extern

from tilewright_backends.emit.gpu.semantics import GpuSemantics
from tilewright_backends.lower.semantics import Bind
from tilewright_backends.lower.types import Prim, element

_EXTREME = """
__forceinline__ __device__ float tw_{op}_f32(float a, float b) {{
#if __CUDA_ARCH__ >= 800
  float r; asm("{op}.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r;
#else
  return b != b ? b : (a {sign} b ? b : a);
#endif
}}
"""
_EXTREME_SOURCE = {"min": _EXTREME.format(op="min", sign=">"), "max": _EXTREME.format(op="max", sign="<")}


class CudaSemantics(GpuSemantics):
    """`Semantics` whose functions are CUDA's."""

    def apply(self, op: str, args: list[Prim], given: str, dtype: str, bind: Bind) -> Prim:
        if op in ("min", "max") and element(args[0]) == "float32" and not any(_is_number(x) for x in args):
            return cuda_func_call(f"tw_{op}_f32", *args, source_code=_EXTREME_SOURCE[op], return_type="float32")
        return super().apply(op, args, given, dtype, bind)

    def library(self, name: str, *args: Prim) -> Prim:
        dtype = element(args[0])
        return call_pure_extern(dtype, name + ("f" if dtype == "float32" else ""), *args)


def _is_number(value: Prim) -> bool:
    return isinstance(value, tirx.FloatImm) and not math.isnan(float(value.value))
