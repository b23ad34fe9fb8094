"""`Node`: what a legalisation rule sees of the ONNX node."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.extents import Symbolic
from tilewright.frontend.legalize.builder import Tensor
from tilewright.frontend.numbers import LARGEST, Numbers, fixing, numbers, shown
from tilewright.frontend.steering import NeededError
from tilewright.ir.bounds import Bounds
from tilewright.ir.expr import Extent
from tilewright.ir.ops import OnnxNode, Value

Array = npt.NDArray[Any]


class Node:
    """An ONNX node with its inputs as tensors of the region under construction.

    Args:
        op: the node.
        inputs: its inputs; None for an optional one that was left out.
    """

    def __init__(self, op: OnnxNode, inputs: tuple[Tensor | None, ...]) -> None:
        self.op = op
        self.inputs = inputs
        self._attributes = dict(op.attributes)

    def __str__(self) -> str:
        name = self.op.loc.node or (self.op.loc.outputs[0] if self.op.loc.outputs else "")
        domain = f"{self.op.domain}." if self.op.domain else ""
        return f"{domain}{self.op.op_type} node {name!r} (opset {self.op.version})"

    @property
    def version(self) -> int:
        """Opset of the node's domain."""
        return self.op.version

    def __getitem__(self, position: int) -> Tensor:
        """A required input."""
        found = self.get(position)
        if found is None:
            raise InputError(f"{self} lacks its input {position}.", "Repair the model.")
        return found

    def get(self, position: int) -> Tensor | None:
        """An optional input."""
        return self.inputs[position] if position < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: a number, a str, a tuple, an array; or `default`."""
        return self._attributes.get(name, default)

    def out(self, position: int = 0) -> Value:
        """The declared type of an output that somebody wants."""
        found = self.op.outputs[position]
        if found is None:
            raise InputError(f"{self} lacks its output {position}.", "Repair the model.")
        return found

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """The declared shape of an output. Raises SymbolicError when an extent is symbolic."""
        return self.out(position).static_shape()

    def extents(self, position: int = 0) -> tuple[Extent, ...]:
        """The declared extents of an output, each an integer or an expression over symbols."""
        return self.out(position).extents

    def fixed(self, x: Tensor, dim: int, what: str) -> int:
        """An extent of an input that must be an integer. Raises UnsupportedError when it is symbolic."""
        found = x.extents[dim]
        if isinstance(found, int):
            return found
        raise self.unsupported(
            f"has a symbolic number of {what}, {shown(found)}.", f"Fix it when compiling, for example {fixing(found)}."
        )

    def wants(self, position: int) -> bool:
        """Whether an optional output is asked for."""
        return position < len(self.op.outputs) and self.op.outputs[position] is not None

    def constant(self, position: int, what: str) -> Array | None:
        """The contents of an optional input that must be known at compile time.

        Raises:
            UnsupportedError: the input is computed at run time.
        """
        tensor = self.get(position)
        if tensor is None:
            return None
        if tensor.data is None:
            given = self.op.inputs[position]
            assert given is not None
            raise NeededError(
                f"{self} takes its {what} from {tensor.value.name!r}, which is only known at run time.",
                f"Fix the {what} when exporting.",
                [given],
            )
        return tensor.data

    def ints(self, position: int, what: str) -> list[int] | None:
        """A constant input as a list of integers."""
        found = self.constant(position, what)
        return None if found is None else [int(x) for x in np.asarray(found).reshape(-1)]

    def symbolic(self, symbols: Bounds) -> Symbolic:
        """The node as the rules for symbolic shapes see it. Attributes are those of the legalised node."""
        attributes: dict[str, Any] = {
            k: v for k, v in self._attributes.items() if isinstance(v, (int, float, str, tuple))
        }
        proto = onnx.helper.make_node(self.op.op_type, [], [], **attributes)
        inputs = [None if x is None else x.value for x in self.inputs]
        known = [self.numbers(n) for n in range(len(self.inputs))]
        return Symbolic(proto, str(self), inputs, known, [None if x is None else x.data for x in self.inputs], symbols)

    def numbers(self, position: int) -> Numbers | None:
        """The contents of an integer input that is known up to symbols."""
        tensor = self.get(position)
        if tensor is None or tensor.numbers is not None:
            return None if tensor is None else tensor.numbers
        small = tensor.data is not None and tensor.data.dtype.kind in "ib" and tensor.data.size <= LARGEST
        return numbers(tensor.data) if small and tensor.data is not None else None

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """The attribute `axis` counted from the front."""
        return self.normal_axis(int(self.attr(name, default)), rank)

    def normal_axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front. Raises InputError when it is out of range."""
        if not -rank <= axis < max(rank, 1):
            raise InputError(f"{self} names axis {axis} of a tensor of rank {rank}.", "Repair the model.")
        return axis % rank if rank else 0

    def unsupported(self, what: str, remedy: str) -> UnsupportedError:
        """An error that names this node."""
        return UnsupportedError(f"{self} {what}", remedy)
