"""How element types are stored in memory and carried in registers.

Memory holds float16 as it is, bfloat16 as 16 bits, bool and narrow types as one byte. Computation carries both half
types in float32 (every operation rounds back, as the IR's meaning says) and bool as TIR's one-bit type.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tilewright.ir import dtypes

Prim = Any
"""A TIR expression of a primitive type."""

_BYTES = dict.fromkeys(dtypes.NARROW, "uint8")
_STORAGE = {"bfloat16": "uint16", "bool": "int8", **_BYTES}
_CARRIER = {"bfloat16": "float32", "float16": "float32", **_BYTES}


def storage(dtype: str) -> str:
    """TIR dtype of an element in memory."""
    return _STORAGE.get(dtype, dtype)


def carrier(dtype: str) -> str:
    """TIR dtype that computation carries values of `dtype` in."""
    return _CARRIER.get(dtype, dtype)


def lanes_of(value: Prim) -> int:
    """Number of vector lanes (1: a scalar)."""
    return int(value.ty.dtype.lanes)


def with_lanes(dtype: str, lanes: int) -> str:
    """The name of a vector type (of the element type itself for one lane)."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def element(value: Prim) -> str:
    """Element dtype of a value, without its lanes."""
    return str(value.ty.dtype).split("x", 1)[0]


def literal(value: bool | int | float, dtype: str, lanes: int = 1) -> Prim:
    """A literal of a TIR dtype, broadcast to `lanes`."""
    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def broadcast(value: Prim, lanes: int) -> Prim:
    """`value` with `lanes` lanes; a vector must have them already."""
    return tirx.Broadcast(value, lanes) if lanes > 1 and lanes_of(value) == 1 else value


def matched(*values: Prim) -> list[Prim]:
    """The values with the widest of their lane counts."""
    lanes = max(lanes_of(x) for x in values)
    return [broadcast(x, lanes) for x in values]


def convert(value: Prim, dtype: str) -> Prim:
    """TIR's cast to another element dtype, lanes kept."""
    return value if element(value) == dtype else tirx.Cast(with_lanes(dtype, lanes_of(value)), value)


def lane(vector: Prim, number: int) -> Prim:
    """One lane of a vector."""
    return tirx.Shuffle([vector], [tirx.const(number, "int32")])


def gather_lanes(scalars: list[Prim]) -> Prim:
    """The vector of the scalars."""
    return tirx.Shuffle(scalars, [tirx.const(i, "int32") for i in range(len(scalars))])


def differ(x: Prim, y: Prim) -> Prim:
    """Whether two floats differ, as NaN does from everything. TVM's own NE is ordered on LLVM: false for NaN."""
    return tirx.Not(tirx.EQ(x, y))


def bfloat16_bits(value: Prim) -> Prim:
    """The upper half of a float32, rounded to nearest even; NaN stays NaN."""
    lanes = lanes_of(value)
    u32 = with_lanes("uint32", lanes)

    def number(bits: int) -> Prim:
        return literal(bits, "uint32", lanes)

    bits = tirx.reinterpret(u32, value)
    upper = tirx.shift_right(bits, number(16))
    odd = tirx.bitwise_and(upper, number(1))
    rounded = tirx.shift_right(tirx.Add(tirx.Add(bits, number(0x7FFF)), odd), number(16))
    nan = tirx.bitwise_or(upper, number(0x40))
    return tirx.Cast(with_lanes("uint16", lanes), tirx.Select(differ(value, value), nan, rounded))


def bfloat16_value(bits: Prim) -> Prim:
    """The float32 whose upper half is `bits`."""
    lanes = lanes_of(bits)
    wide = tirx.Cast(with_lanes("uint32", lanes), bits)
    return tirx.reinterpret(with_lanes("float32", lanes), tirx.shift_left(wide, literal(16, "uint32", lanes)))


def from_storage(value: Prim, dtype: str) -> Prim:
    """A loaded element of `dtype` as its carrier."""
    if dtype == "bfloat16":
        return bfloat16_value(value)
    if dtype == "bool":
        return tirx.NE(value, literal(0, "int8", lanes_of(value)))
    return convert(value, carrier(dtype))


def to_storage(value: Prim, dtype: str) -> Prim:
    """A carried value of `dtype` as it is stored; half types are rounded here."""
    if dtype == "bfloat16":
        return bfloat16_bits(value)
    return convert(value, storage(dtype))


def rounded(value: Prim, dtype: str) -> Prim:
    """A carried value rounded to the precision of `dtype`."""
    if dtype in _CARRIER:
        return from_storage(to_storage(value, dtype), dtype)
    return value
