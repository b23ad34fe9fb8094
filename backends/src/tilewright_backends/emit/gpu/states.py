"""States of reductions and recurrences in registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim


def cell(dtype: str) -> str:
    """TIR dtype of the registers of a state: booleans and small integers as int32, which warps can exchange."""
    return "int32" if dtype in ("bool", "int8", "uint8", "int16", "uint16") else types.carrier(dtype)


def from_cell(body: GpuBody, value: Prim, dtype: str) -> Prim:
    """What a register holds, as a carried value of an IR dtype."""
    if dtype == "bool":
        return body.bind(tirx.NE(value, types.literal(0, "int32")), "s")
    return body.bind(types.convert(value, types.carrier(dtype)), "s")


def to_cell(value: Prim, dtype: str) -> Prim:
    """A carried value of an IR dtype as a register holds it."""
    return types.convert(value, cell(dtype))


def across(body: GpuBody, value: Prim, dtype: str, distance: int) -> Prim:
    """The carried value of the lane whose number differs in one bit; all lanes of the warp must come here."""
    return from_cell(body, body.across(to_cell(value, dtype), distance), dtype)


def from_lane(body: GpuBody, value: Prim, dtype: str, lane: Prim) -> Prim:
    """The carried value of another lane of the warp; all lanes of the warp must come here."""
    return from_cell(body, body.from_lane(to_cell(value, dtype), lane), dtype)


class States:
    """One register for a state of each IR dtype."""

    def __init__(self, body: GpuBody, dtypes: Sequence[str]) -> None:
        self.body = body
        self.dtypes = tuple(dtypes)
        self.registers = [body.registers(cell(d), 1, "acc") for d in dtypes]

    def read(self) -> list[Prim]:
        """The states as carried values."""
        pairs = zip(self.registers, self.dtypes, strict=True)
        return [from_cell(self.body, register[0], dtype) for register, dtype in pairs]

    def write(self, values: Sequence[Prim]) -> None:
        """Makes carried values the states; they may come from the old ones."""
        named = [self.body.bind(x, "merged") for x in values]
        for register, value, dtype in zip(self.registers, named, self.dtypes, strict=True):
            self.body.store(register, types.literal(0, "int32"), to_cell(value, dtype))
