"""How a read moves along a spatial axis and the reduce axis of the windows that slide along it."""

from __future__ import annotations

import math

import attrs

from tilewright.ir.expr import Apply, Expr, variables
from tilewright.ir.ops import Axis
from tilewright_backends.lower.flat import FlatAccess, coefficient

_JOINED = ("and", "or", "not")


@attrs.frozen
class Slide:
    """A read at output `j`, step `r` of the window is that of any other pair with the same `place`.

    Args:
        stride: places from one output to the next.
        dilation: places from one step to the next.
        shared: False where nothing is known; then every pair has a place of its own.
    """

    stride: int
    dilation: int
    shared: bool = True

    def place(self, output: int, step: int) -> tuple[int, int]:
        """Where an output's step reads."""
        return (output * self.stride + step * self.dilation, 0) if self.shared else (output, step)

    def places(self, outputs: int, steps: int) -> int:
        """Number of different places of so many outputs."""
        return len({self.place(i, r) for i in range(outputs) for r in range(steps)})

    def overlaps(self, outputs: int, steps: int) -> bool:
        """Whether two outputs share a place."""
        if not (self.shared and self.stride and self.dilation):
            return False
        return abs(self.stride) < steps and abs(self.dilation) < outputs


def slide_of(read: FlatAccess, axis: Axis | None, reduced: Axis | None) -> Slide:
    """How a read moves along a spatial axis and a reduce axis; where one of them is missing, along the other."""
    names = ["" if a is None else a.name for a in (axis, reduced)]
    stride, dilation = (coefficient(read.address, name) if name else 0 for name in names)
    if stride is None or dilation is None:
        return Slide(0, 0, shared=False)
    common = math.gcd(stride, dilation) or 1
    stride, dilation = stride // common, dilation // common
    if stride < 0 or (not stride and dilation < 0):
        stride, dilation = -stride, -dilation
    return Slide(stride, dilation, _alike(read.guard, names, stride, dilation))


def _alike(guard: Expr | None, names: list[str], stride: int, dilation: int) -> bool:
    """Whether a guard depends on an output and a step by their place only."""
    if guard is None or not variables(guard) & set(names):
        return True
    if isinstance(guard, Apply) and (guard.op in _JOINED or guard.dtype == "bool"):
        return all(_alike(x, names, stride, dilation) for x in guard.args)
    if not stride and not dilation:
        return False
    output, step = (coefficient(guard, name) if name else 0 for name in names)
    return output is not None and step is not None and output * dilation == step * stride
