"""Narrow element types: 8- and 4-bit floats, 4- and 2-bit integers. They are stored only, an element in a byte.

`decode` gives an element as float32 or int32, `encode` rounds a number to an element. Both are integer arithmetic on
the bits, so no code generator needs to know the types. The formats are those of ONNX's texts on floats of 8 and of 4
bits; results agree with ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, bitcast, cast, const, eq, minimum, select

Mode = Literal["up", "down", "nearest"]


@attrs.frozen
class Format:
    """A binary floating-point format of at most 8 bits.

    Args:
        mantissa: stored bits of the significand.
        exponent: bits of the exponent.
        bias: of the exponent.
        largest: code of the largest finite number.
        nan: code of NaN.
        infinity: code of infinity; None when there is none.
        overflow: code of what is too large for the format where that does not saturate.
        negative_zero: whether there is one.
    """

    mantissa: int
    exponent: int
    bias: int
    largest: int
    nan: int
    overflow: int
    infinity: int | None = None
    negative_zero: bool = True

    @property
    def sign(self) -> int:
        """Code of the sign bit."""
        return 1 << (self.mantissa + self.exponent)


FORMATS: Mapping[str, Format] = {
    "float8e4m3fn": Format(3, 4, 7, largest=0x7E, nan=0x7F, overflow=0x7F),
    "float8e4m3fnuz": Format(3, 4, 8, largest=0x7F, nan=0x80, overflow=0x80, negative_zero=False),
    "float8e5m2": Format(2, 5, 15, largest=0x7B, nan=0x7E, overflow=0x7C, infinity=0x7C),
    "float8e5m2fnuz": Format(2, 5, 16, largest=0x7F, nan=0x80, overflow=0x80, negative_zero=False),
    "float4e2m1": Format(1, 2, 1, largest=0x7, nan=0x8, overflow=0x7),
}
INTEGERS: Mapping[str, int] = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
"""Width of the narrow integers."""


def decode(x: Expr) -> Expr:
    """The value of an element: float32, or int32 of a narrow integer; any other type stays as it is."""
    if not dtypes.is_narrow(x.dtype):
        return x
    code = cast(bitcast(x, "uint8"), "int32")
    if x.dtype in INTEGERS:
        width = INTEGERS[x.dtype]
        value = apply("bitand", code, const((1 << width) - 1, "int32"))
        half = 1 << (width - 1)
        return apply("bitxor", value, const(half, "int32")) - half if x.dtype.startswith("int") else value
    if x.dtype == "float8e8m0":
        value = select(eq(code, 0), const(2.0**-127, "float32"), _power(code))
        return select(eq(code, 255), const(float("nan"), "float32"), value)
    return _decode_float(code, FORMATS[x.dtype])


def _power(exponent: Expr) -> Expr:
    """The float32 with a biased exponent and no fraction."""
    return bitcast(apply("shl", exponent, const(23, "int32")), "float32")


def _decode_float(code: Expr, f: Format) -> Expr:
    magnitude = apply("bitand", code, const(f.sign - 1, "int32"))
    exponent = apply("shr", magnitude, const(f.mantissa, "int32"))
    fraction = apply("bitand", magnitude, const((1 << f.mantissa) - 1, "int32"))
    bits = apply("shl", magnitude + ((127 - f.bias) << f.mantissa), const(23 - f.mantissa, "int32"))
    small = cast(fraction, "float32") * 2.0 ** (1 - f.bias - f.mantissa)
    value = select(eq(exponent, 0), small, bitcast(bits, "float32"))
    negative = apply("le", const(f.sign, "int32"), code)
    if f.infinity is not None:
        value = select(eq(magnitude, f.infinity), const(float("inf"), "float32"), value)
        value = select(apply("lt", const(f.infinity, "int32"), magnitude), const(float("nan"), "float32"), value)
    value = select(negative, -value, value)
    if f.infinity is None and f is not FORMATS["float4e2m1"]:
        where = magnitude if f.negative_zero else code
        value = select(eq(where, f.nan), const(float("nan"), "float32"), value)
    return value


def encode(x: Expr, dtype: str, saturate: bool = True, mode: Mode = "up") -> Expr:
    """`x` rounded to an element of a narrow type, or cast to any other.

    Args:
        saturate: whether what is too large becomes the largest finite number instead of infinity or NaN.
        mode: how a scale of the type float8e8m0 is rounded; all others are rounded to nearest, ties to even.
    """
    if dtype not in dtypes.NARROW:
        return cast(x, dtype)
    if dtype in INTEGERS:
        whole = x if dtypes.is_integer(x.dtype) else cast(x, "int32")
        low = apply("bitand", cast(whole, "int32"), const((1 << INTEGERS[dtype]) - 1, "int32"))
        return bitcast(cast(low, "uint8"), dtype)
    if dtype == "float8e8m0":
        return _encode_scale(cast(x, "float32"), saturate, mode)
    # A number of float64 would be rounded twice on the way through float32.
    wide = x if x.dtype == "float64" else cast(x, "float32")
    return bitcast(cast(_encode_float(wide, FORMATS[dtype], saturate), "uint8"), dtype)


def _encode_float(x: Expr, f: Format, saturate: bool) -> Expr:
    """The code of `x`, int32."""
    fraction, bias, word = (23, 127, "int32") if x.dtype == "float32" else (52, 1023, "int64")
    bits = bitcast(x, word)
    size = apply("abs", x)
    magnitude = bitcast(size, word)
    drop = fraction - f.mantissa
    odd = apply("bitand", apply("shr", magnitude, const(drop, word)), const(1, word))
    rounded = apply("shr", magnitude + ((1 << (drop - 1)) - 1) + odd, const(drop, word))
    normal = rounded - ((bias - f.bias) << f.mantissa)
    # Below the smallest normal number the codes are equally spaced; the code after the last of them is that number.
    least = 2.0 ** (1 - f.bias)
    small = apply("round", minimum(size, least) * 2.0 ** (f.bias - 1 + f.mantissa))
    code = cast(select(apply("lt", size, const(least, x.dtype)), cast(small, word), normal), "int32")
    infinite = apply("isinf", x)
    beyond = apply("or", apply("lt", const(f.largest, "int32"), code), infinite)
    # A sum of bits past infinity's may have wrapped; NaN is dealt with below.
    code = select(beyond, const(f.largest if saturate else f.overflow, "int32"), code)
    negative = apply("lt", bits, const(0, word))
    signed = apply("bitor", code, const(f.sign, "int32"))
    if not f.negative_zero:
        negative = apply("and", negative, apply("not", eq(code, 0)))
    code = select(negative, signed, code)
    return select(apply("isnan", x), const(f.nan, "int32"), code)


def _encode_scale(x: Expr, saturate: bool, mode: Mode) -> Expr:
    """A power of two: the exponent of `x`, rounded by its fraction; the sign is lost."""
    bits = bitcast(x, "int32")
    exponent = apply("bitand", apply("shr", bits, const(23, "int32")), const(0xFF, "int32"))
    fraction = apply("bitand", bits, const(0x7FFFFF, "int32"))
    half = const(0x400000, "int32")
    if mode == "up":
        more = apply("lt", const(0, "int32"), fraction)
    elif mode == "nearest":
        # A half is rounded up, but in the numbers without an exponent, where it goes to the even code zero.
        some = apply("or", apply("lt", half, fraction), apply("lt", const(0, "int32"), exponent))
        more = apply("and", apply("le", half, fraction), some)
    else:
        more = const(False, "bool")
    if saturate:
        more = apply("and", more, apply("lt", exponent, const(0xFE, "int32")))
    code = select(eq(exponent, 0xFF), exponent, exponent + cast(more, "int32"))
    return bitcast(cast(code, "uint8"), "float8e8m0")
