"""Elementary functions on GPUs: the accurate ones of the vendor's math library, never fast approximations."""

from __future__ import annotations

import math

from tvm import tirx

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


class GpuSemantics(Semantics):
    """`Semantics` whose functions are those of a library."""

    def library(self, name: str, *args: Prim) -> Prim:
        """The library's function that C calls `name`, of float32 or float64."""
        raise NotImplementedError

    def function(self, name: str, x: Prim, bind: Bind) -> Prim:
        if name not in _FUNCTIONS:
            raise InternalError(f"there is no function of a GPU for {name!r}.")
        return self._checked(_FUNCTIONS[name], x)

    def power(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        exponent = float(y.value) if isinstance(y, tirx.FloatImm) else None
        if exponent == 2.0:
            return tirx.Mul(x, x)
        if exponent == 0.5 and element(x) == "float32":
            # pow(-0, 0.5) is +0 and pow(-inf, 0.5) is +inf, unlike the square root.
            root = bind(self._checked("sqrt", self._checked("fabs", x)))
            negative = tirx.And(tirx.LT(x, tirx.const(0, element(x))), tirx.LT(root, tirx.const(math.inf, element(x))))
            return tirx.Select(negative, tirx.const(math.nan, element(x)), root)
        return self._checked("pow", x, y)

    def remainder(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        return self._checked("fmod", x, y)

    def _checked(self, name: str, *args: Prim) -> Prim:
        dtype = element(args[0])
        if dtype not in ("float32", "float64"):
            raise InternalError(f"{name} was asked of {dtype}; it must be carried in a float type.")
        return self.library(name, *args)
