"""Elementary functions on CUDA: the accurate ones of the CUDA math library, never the fast approximations."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.op import call_pure_extern

from tilewright.errors import InternalError
from tilewright_backends.lower.semantics import Bind, Semantics
from tilewright_backends.lower.types import Prim, element

_NAMES = [
    "exp",
    "log",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "erf",
    "floor",
    "ceil",
    "trunc",
]
_FUNCTIONS = {name: name for name in _NAMES} | {"abs": "fabs", "round": "rint"}
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


def _extern(name: str, *args: Prim) -> Prim:
    dtype = element(args[0])
    if dtype not in ("float32", "float64"):
        raise InternalError(f"{name} was asked of {dtype}; it must be carried in a float type.")
    return call_pure_extern(dtype, name + ("f" if dtype == "float32" else ""), *args)


class CudaSemantics(Semantics):
    """`Semantics` whose functions are CUDA's."""

    def apply(self, op: str, args: list[Prim], given: str, dtype: str, bind: Bind) -> Prim:
        if op in ("min", "max") and element(args[0]) == "float32" and not any(_is_number(x) for x in args):
            return cuda_func_call(f"tw_{op}_f32", *args, source_code=_EXTREME_SOURCE[op], return_type="float32")
        return super().apply(op, args, given, dtype, bind)

    def function(self, name: str, x: Prim, bind: Bind) -> Prim:
        if name not in _FUNCTIONS:
            raise InternalError(f"there is no CUDA function for {name!r}.")
        return _extern(_FUNCTIONS[name], x)

    def power(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        exponent = float(y.value) if isinstance(y, tirx.FloatImm) else None
        if exponent == 2.0:
            return tirx.Mul(x, x)
        if exponent == 0.5 and element(x) == "float32":
            # pow(-0, 0.5) is +0 and pow(-inf, 0.5) is +inf, unlike the square root.
            root = bind(_extern("sqrt", _extern("fabs", x)))
            negative = tirx.And(tirx.LT(x, tirx.const(0, element(x))), tirx.LT(root, tirx.const(math.inf, element(x))))
            return tirx.Select(negative, tirx.const(math.nan, element(x)), root)
        return _extern("pow", x, y)

    def remainder(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        return _extern("fmod", x, y)


def _is_number(value: Prim) -> bool:
    return isinstance(value, tirx.FloatImm) and not math.isnan(float(value.value))
