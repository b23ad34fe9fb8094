"""States of reductions and recurrences in registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim


def cell(dtype: str) -> str:
    """TIR dtype of the registers of a state: booleans and small integers as int32, which warps can exchange."""
    return "int32" if dtype in ("bool", "int8", "uint8", "int16", "uint16") else types.carrier(dtype)


def from_cell(body: Body, value: Prim, dtype: str) -> Prim:
    """What a register holds, as a carried value of an IR dtype."""
    if dtype == "bool":
        return body.bind(tirx.NE(value, types.literal(0, "int32")), "s")
    return body.bind(types.convert(value, types.carrier(dtype)), "s")


def to_cell(value: Prim, dtype: str) -> Prim:
    """A carried value of an IR dtype as a register holds it."""
    return types.convert(value, cell(dtype))


def exchanged(body: Body, how: str, value: Prim, dtype: str, which: Prim) -> Prim:
    """The carried value that another lane of the warp has; all lanes of the warp must come here.

    Args:
        how: CUDA's name of the exchange, such as `__shfl_xor_sync`.
        which: its last argument.
    """
    every = types.literal(-1, "int32")
    other = body.call(how, every, to_cell(value, dtype), which, source="", result=cell(dtype))
    return from_cell(body, other, dtype)


class States:
    """One register for a state of each IR dtype."""

    def __init__(self, body: Body, dtypes: Sequence[str]) -> None:
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
