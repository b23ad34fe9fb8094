"""Elementary functions on the CPU: polynomials on vectors for those that models use, the C library for the rest.

The coefficients are weighted minimax fits to the functions named beside them, made for float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from tilewright_backends.lower.semantics import Bind, Semantics
from tilewright_backends.lower.types import (
    Prim,
    differ,
    element,
    gather_lanes,
    lane,
    lanes_of,
    literal,
    matched,
    with_lanes,
)

_EXP = (0.5, 0.16666516661643982, 0.04166620224714279, 0.008369073271751404, 0.001395080704241991)
"""(e^r - 1 - r) / r² on |r| ≤ ln2/2; error 3e-9 of e^r."""

_LOG = (
    0.3333331346511841,
    -0.25000008940696716,
    0.2000211924314499,
    -0.1666799634695053,
    0.14219550788402557,
    -0.12405591458082199,
    0.11888174712657928,
    -0.11675640940666199,
    0.06746601313352585,
)
"""(ln(1+f) - f + f²/2) / f³ on √½ ≤ 1+f ≤ √2; relative error 8e-10 of ln."""

_TANH = (-0.3333328366279602, 0.13331490755081177, -0.05374349653720856, 0.020650578662753105, -0.005717036779969931)
"""(tanh(x)/x - 1) / x² in x² on |x| ≤ 0.625; error 4e-9."""

_ERF = (
    1.1283791065216064,
    -0.3761262595653534,
    0.11283600330352783,
    -0.026854444295167923,
    0.005189535208046436,
    -0.0008020841050893068,
    7.889119297033176e-05,
)
"""erf(x)/x in x² on |x| ≤ 1; error 1.2e-9."""

_ERFC = (
    -0.000188040328794159,
    1.1295784711837769,
    0.6332198977470398,
    0.10841857641935349,
    -0.025208257138729095,
    0.004204561933875084,
    -0.0004413363931234926,
    2.1686850232072175e-05,
)
"""-ln(erfc(x)) on 1 ≤ x ≤ 3.95; error 2.1e-11 of erfc."""


_INTRINSICS = {
    "abs": "llvm.fabs",
    "sqrt": "llvm.sqrt",
    "floor": "llvm.floor",
    "ceil": "llvm.ceil",
    "trunc": "llvm.trunc",
    "round": "llvm.nearbyint",
}


class CpuSemantics(Semantics):
    """The operators on a CPU.

    Args:
        fused: whether the CPU has fused multiply-add.
    """

    def __init__(self, fused: bool) -> None:
        self.fused = fused

    def fma(self, a: Prim, b: Prim, c: Prim) -> Prim:
        """a*b + c, in one rounding where the CPU can."""
        if self.fused:
            return tirx.call_llvm_pure_intrin(str(c.ty.dtype), "llvm.fma", *matched(a, b, c))
        return tirx.Add(tirx.Mul(a, b), c)

    def function(self, name: str, x: Prim, bind: Bind) -> Prim:
        if name in _INTRINSICS:
            return intrinsic(_INTRINSICS[name], x)
        if element(x) == "float32":
            match name:
                case "exp":
                    return self._exp(x, bind)
                case "log":
                    return self._log(x, bind)
                case "tanh":
                    return self._tanh(x, bind)
                case "erf":
                    return self._erf(x, bind)
        return library(name, x)

    def remainder(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        return library("fmod", x, y)

    def power(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        scalar = y.value if isinstance(y, tirx.Broadcast) else y
        if isinstance(scalar, tirx.FloatImm):
            quarters = float(scalar.value) * 4
            if quarters.is_integer() and 0 < abs(quarters) <= 16:
                return _quarter_power(x, int(quarters), bind)
        return library("pow", x, y)

    def _polynomial(self, x: Prim, coefficients: tuple[float, ...]) -> Prim:
        lanes = lanes_of(x)
        total = literal(coefficients[-1], element(x), lanes)
        for coefficient in reversed(coefficients[:-1]):
            total = self.fma(total, x, literal(coefficient, element(x), lanes))
        return total

    def _exp(self, x: Prim, bind: Bind) -> Prim:
        """2^n · e^r with n = round(x / ln 2); in two factors of two, so that subnormal results come out right."""
        f, i = _numbers(x)
        clamped = tirx.Select(tirx.LT(x, f(-104.0)), f(-104.0), x)  # NaN stays
        clamped = bind(tirx.Select(tirx.LT(f(89.0), clamped), f(89.0), clamped))
        n = bind(intrinsic("llvm.nearbyint", tirx.Mul(clamped, f(1 / math.log(2)))))
        r = self.fma(n, f(-0.693359375), clamped)
        r = bind(self.fma(n, f(2.12194440e-4), r))
        value = bind(tirx.Add(self.fma(tirx.Mul(r, r), self._polynomial(r, _EXP), r), f(1.0)))
        exponent = bind(_int_of(tirx.Select(differ(n, n), f(0), n)))
        half = bind(tirx.shift_right(exponent, i(1)))
        return tirx.Mul(tirx.Mul(value, _power_of_two(half)), _power_of_two(tirx.Sub(exponent, half)))

    def _log(self, x: Prim, bind: Bind) -> Prim:
        f, i = _numbers(x)
        lanes = lanes_of(x)
        tiny = bind(tirx.LT(x, f(1.17549435e-38)))
        scaled = bind(tirx.Select(tiny, tirx.Mul(x, f(8388608.0)), x))
        bits = bind(tirx.reinterpret(with_lanes("int32", lanes), scaled))
        # Subtracting the bits of √½ makes the exponent of the scaled value relative to [√½, √2).
        shifted = bind(tirx.Sub(bits, i(0x3F3504F3)))
        n = tirx.shift_right(shifted, i(23))
        mantissa = tirx.Add(tirx.bitwise_and(shifted, i(0x007FFFFF)), i(0x3F3504F3))
        r = bind(tirx.Sub(tirx.reinterpret(with_lanes("float32", lanes), mantissa), f(1.0)))
        exponent = bind(tirx.Sub(tirx.Cast(with_lanes("float32", lanes), n), tirx.Select(tiny, f(23.0), f(0.0))))
        square = bind(tirx.Mul(r, r))
        tail = tirx.Mul(tirx.Mul(square, r), self._polynomial(r, _LOG))
        tail = self.fma(exponent, f(-2.12194440e-4), tail)
        tail = self.fma(square, f(-0.5), tail)
        value = self.fma(exponent, f(0.693359375), tirx.Add(r, tail))
        value = tirx.Select(tirx.LT(x, f(math.inf)), value, x)  # inf and NaN stay
        value = tirx.Select(tirx.LT(x, f(0.0)), f(math.nan), value)
        return tirx.Select(tirx.EQ(x, f(0.0)), f(-math.inf), value)

    def _tanh(self, x: Prim, bind: Bind) -> Prim:
        f, _ = _numbers(x)
        square = bind(tirx.Mul(x, x))
        near = self.fma(tirx.Mul(square, self._polynomial(square, _TANH)), x, x)
        size = bind(intrinsic("llvm.fabs", x))
        far = tirx.Sub(f(1.0), tirx.Div(f(2.0), tirx.Add(self._exp(bind(tirx.Add(size, size)), bind), f(1.0))))
        signed = tirx.Select(tirx.LT(x, f(0.0)), tirx.Mul(far, f(-1.0)), far)
        return tirx.Select(tirx.LT(size, f(0.625)), near, signed)

    def _erf(self, x: Prim, bind: Bind) -> Prim:
        f, _ = _numbers(x)
        size = bind(intrinsic("llvm.fabs", x))
        near = tirx.Mul(x, self._polynomial(bind(tirx.Mul(x, x)), _ERF))
        clamped = bind(tirx.Select(tirx.LT(f(3.95), size), f(3.95), size))
        exponent = bind(tirx.Mul(self._polynomial(clamped, _ERFC), f(-1.0)))
        far = tirx.Sub(f(1.0), self._exp(exponent, bind))
        signed = tirx.Select(tirx.LT(x, f(0.0)), tirx.Mul(far, f(-1.0)), far)
        return tirx.Select(tirx.LT(f(1.0), size), signed, near)


def intrinsic(name: str, x: Prim) -> Prim:
    """LLVM's unary function, one instruction on vectors."""
    return tirx.call_llvm_pure_intrin(str(x.ty.dtype), name, x)


def library(name: str, *args: Prim) -> Prim:
    """The C library's function on every lane."""
    dtype = element(args[0])
    symbol = name + ("f" if dtype == "float32" else "")
    lanes = lanes_of(args[0])
    if lanes == 1:
        return tirx.call_pure_extern(dtype, symbol, *args)
    split = [tirx.call_pure_extern(dtype, symbol, *(lane(x, n) for x in args)) for n in range(lanes)]
    return gather_lanes(split)


def _numbers(x: Prim) -> tuple[Callable[[float], Prim], Callable[[int], Prim]]:
    """Makers of float32 and int32 literals with the lanes of `x`."""
    lanes = lanes_of(x)
    return (lambda value: literal(value, "float32", lanes)), (lambda value: literal(value, "int32", lanes))


def _int_of(x: Prim) -> Prim:
    return tirx.Cast(with_lanes("int32", lanes_of(x)), x)


def _power_of_two(n: Prim) -> Prim:
    """2^n as float32, -126 ≤ n ≤ 127."""
    lanes = lanes_of(n)
    bits = tirx.shift_left(tirx.Add(n, literal(127, "int32", lanes)), literal(23, "int32", lanes))
    return tirx.reinterpret(with_lanes("float32", lanes), bits)


def _quarter_power(x: Prim, quarters: int, bind: Bind) -> Prim:
    """x^(quarters/4) from products and square roots, with pow's results for -0 and -inf."""
    lanes = lanes_of(x)

    def number(value: float) -> Prim:
        return literal(value, element(x), lanes)

    whole, part = divmod(abs(quarters), 4)
    result: Prim = None
    for _ in range(whole):
        result = x if result is None else bind(tirx.Mul(result, x))
    if part:
        root = bind(intrinsic("llvm.sqrt", x))
        fraction = {2: root, 1: intrinsic("llvm.sqrt", root), 3: tirx.Mul(root, intrinsic("llvm.sqrt", root))}[part]
        fraction = tirx.Add(fraction, number(0.0))
        fraction = bind(tirx.Select(tirx.EQ(x, number(-math.inf)), number(math.inf), fraction))
        result = fraction if result is None else tirx.Mul(bind(intrinsic("llvm.fabs", result)), fraction)
    if quarters < 0:
        result = tirx.Div(number(1.0), result)
    return result
