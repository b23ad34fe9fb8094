"""Module: functions of regions, constants and symbols. The first stored form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.ir import dtypes
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Var, const
from tilewright.ir.ops import Region, Value


@attrs.define(frozen=True, eq=False, slots=False)
class Constant:
    """A tensor known at compile time. Two constants are equal when dtype, shape and bytes are."""

    data: npt.NDArray[Any]

    @property
    def dtype(self) -> str:
        return dtypes.from_numpy(self.data.dtype)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of dtype, shape and bytes, in hexadecimal."""
        data = np.ascontiguousarray(self.data)
        digest = hashlib.sha256(f"{self.dtype}{data.shape}".encode())
        digest.update(data.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def value(self, name: str) -> Value:
        """The `Value` that stands for this constant under `name`."""
        return Value(name, self.dtype, tuple(const(int(x)) for x in self.data.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and (self.data is other.data or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash((self.dtype, self.data.shape))


@attrs.frozen
class Symbol:
    """A named integer that extents may use, with the bounds that grids and storage are sized by."""

    name: str
    lower: int
    upper: int

    @property
    def var(self) -> Var:
        """The variable that stands for it in extents."""
        return Var(self.name)

    @property
    def interval(self) -> Interval:
        return Interval(self.lower, self.upper)


@attrs.frozen
class Function:
    """A named region; `body.params` are its parameters."""

    name: str
    body: Region


DEPTH = 1024
"""Calls of recursive functions that may be active at one time, when a module does not say."""


def frozen_mapping(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy, for fields of frozen classes."""
    return MappingProxyType(dict(given))


@attrs.frozen
class Module:
    """A model: functions (the entry first by name), constants by value name, symbols.

    The entry's parameters are the model's inputs, its results the outputs.

    Args:
        input_names: what the ONNX model calls the entry's parameters; arbitrary text, never an identifier.
        output_names: likewise for its results.
        depth: how many calls of recursive functions may be active at one time; one more ends a run with an InputError.
        lengths: outputs of which data decide how many rows count; see `ir.lengths`.
    """

    functions: Mapping[str, Function] = attrs.field(converter=frozen_mapping)
    constants: Mapping[str, Constant] = attrs.field(converter=frozen_mapping, factory=dict)
    symbols: tuple[Symbol, ...] = ()
    entry: str = "main"
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    depth: int = DEPTH
    lengths: Mapping[str, str] = attrs.field(converter=frozen_mapping, factory=dict)

    @property
    def main(self) -> Function:
        return self.functions[self.entry]

    def with_main(self, body: Region, constants: Mapping[str, Constant] | None = None) -> Module:
        """This module with another body of the entry function (and other constants)."""
        functions = {**self.functions, self.entry: Function(self.entry, body)}
        return attrs.evolve(
            self, functions=functions, constants=self.constants if constants is None else constants
        )
