"""What convolutions and pools share: window attributes, padding by `auto_pad`, positions in the input."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.frontend.legalize.builder import within
from tilewright.frontend.legalize.node import Node
from tilewright.ir.expr import Expr, Extent


@attrs.frozen
class Window:
    """A sliding window over the spatial dimensions of an input.

    Args:
        extents: sizes of the input, `[H, W, …]`.
        kernel, strides, dilations: one number per spatial dimension.
        begin, end: padding before and after each dimension.
    """

    extents: tuple[Extent, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.extents)

    def start(self, dim: int, out: Expr) -> Expr:
        """Position in the input of the window's first element; negative inside the padding."""
        return out * self.strides[dim] - self.begin[dim]

    def position(self, out: Sequence[Expr], offset: Sequence[Expr]) -> tuple[Expr, ...]:
        """Positions in the input of element `offset` of the window at `out`."""
        return tuple(self.start(d, out[d]) + offset[d] * self.dilations[d] for d in range(self.rank))

    def inside(self, position: Sequence[Expr]) -> Expr:
        """Whether a position is inside the input."""
        condition = within(position[0], self.extents[0])
        for x, extent in zip(position[1:], self.extents[1:], strict=True):
            condition = condition & within(x, extent)
        return condition


def window_of(node: Node, extents: Sequence[Extent], kernel: Sequence[int], outputs: Sequence[Extent]) -> Window:
    """The window that a node's attributes describe, for outputs of the inferred sizes."""
    rank = len(extents)
    strides = tuple(node.attr("strides", (1,) * rank))
    dilations = tuple(node.attr("dilations", (1,) * rank))
    mode = node.attr("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for d in range(rank):
            reach = (kernel[d] - 1) * dilations[d] + 1
            size, count = extents[d], outputs[d]
            if not isinstance(size, int) or not isinstance(count, int):
                raise node.unsupported(
                    "pads a symbolic dimension by auto_pad.", "Fix it when compiling, for example --shape height=224."
                )
            total = max((count - 1) * strides[d] + reach - size, 0)
            less, more = total // 2, total - total // 2
            begin.append(less if mode == "SAME_UPPER" else more)
            end.append(more if mode == "SAME_UPPER" else less)
    else:
        pads = tuple(node.attr("pads", (0,) * (2 * rank))) if mode != "VALID" else (0,) * (2 * rank)
        begin, end = list(pads[:rank]), list(pads[rank:])
    return Window(tuple(extents), tuple(kernel), strides, dilations, tuple(begin), tuple(end))
