"""ConvTranspose and Col2Im, written as gathers: each output looks for the inputs that contribute to it."""

from __future__ import annotations

import attrs

from tilewright.frontend.legalize.builder import Builder, Tensor, wide, within
from tilewright.frontend.legalize.convolution import add_channel_bias
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.legalize.windows import Window
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, as_expr, const, eq, minimum, static

rule = Family()


@rule("ConvTranspose")
def _conv_transpose(b: Builder, node: Node) -> Tensor:
    x, w, bias, out = node[0], node[1], node.get(2), node.out()
    shape = out.extents
    image, result = (
        tuple(static(n, f"extent of {of.name}") for n in of.shape[2:]) for of in (x.value, out)
    )
    groups = int(node.attr("group", 1))
    window = _transposed_window(node, image, w.shape[2:], result)
    depth, per_group = node.fixed(x, 1, "channels") // groups, w.shape[1]
    many = (groups,) if groups > 1 else ()
    phases = [_Phase.of(window, d, result[d]) for d in range(window.rank)]
    extents = [n for p in phases for n in p.extents]
    starts = [sum(len(p.extents) for p in phases[:d]) for d in range(window.rank)]

    def places(rest: tuple[Expr, ...]) -> list[tuple[Expr, ...]]:
        return [rest[s : s + len(p.extents)] for s, p in zip(starts, phases, strict=True)]

    def body(*i: Expr) -> Expr:
        group = i[1] if many else as_expr(0)
        channel, rest = i[1 + len(many)], i[2 + len(many) :]
        source, taps = rest[len(extents)], rest[len(extents) + 1 :]
        read = [p.read(at, k) for p, at, k in zip(phases, places(rest), taps, strict=True)]
        inside = window.inside([position for position, _, _ in read])
        for _, _, valid in read:
            inside = inside if valid is None else inside & valid
        inside = b.simplified(inside)
        pixel = x.guarded(inside, (i[0], group * depth + source, *(position for position, _, _ in read)))
        kernel = [minimum(offset, n - 1) for (_, offset, _), n in zip(read, window.kernel, strict=True)]
        return wide(pixel) * wide(w[(group * depth + source, channel, *kernel)])

    def target(*i: Expr) -> tuple[Expr, ...]:
        group = i[1] if many else as_expr(0)
        at = [p.write(x) for p, x in zip(phases, places(i[2 + len(many) :]), strict=True)]
        return i[0], group * per_group + i[1 + len(many)], *at

    product = b.domain(
        [(out.dtype if bias is None else dtypes.accumulator(out.dtype), shape)],
        (shape[0], *many, per_group, *extents),
        (depth, *(p.taps for p in phases)),
        body,
        how="sum",
        index=target,
        name="product",
    )[0]
    return product if bias is None else add_channel_bias(b, product, bias, out.dtype)


def _transposed_window(
    node: Node, extents: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...]
) -> Window:
    """The window of the convolution that is transposed; its padding may follow from the output's size."""
    rank = len(extents)
    strides = tuple(node.attr("strides", (1,) * rank))
    dilations = tuple(node.attr("dilations", (1,) * rank))
    extra = tuple(node.attr("output_padding", (0,) * rank))
    mode, pads = node.attr("auto_pad", "NOTSET"), node.attr("pads")
    begin, end = [0] * rank, [0] * rank
    for d in range(rank):
        total = strides[d] * (extents[d] - 1) + extra[d] + (kernel[d] - 1) * dilations[d] + 1 - outputs[d]
        if mode in ("SAME_UPPER", "SAME_LOWER") or node.attr("output_shape"):
            less = max(total, 0) // 2
            begin[d] = less if mode == "SAME_UPPER" else max(total, 0) - less
            end[d] = max(total, 0) - begin[d]
        elif pads is not None and mode != "VALID":
            begin[d], end[d] = pads[d], pads[rank + d]
    return Window(extents, kernel, strides, dilations, tuple(begin), tuple(end))


@attrs.frozen
class _Phase:
    """One dimension of a transposed convolution: which inputs and kernel elements meet at an output position.

    Outputs `o` and kernel elements `k` meet where `o + pad - k·dilation` is a multiple of the stride. Without dilation
    and with an extent that the stride divides, the output is split into (quotient, phase): then exactly every
    stride-th kernel element counts and nothing is computed in vain. Otherwise a guard picks those that count.
    """

    stride: int
    dilation: int
    pad: int
    kernel: int
    extents: tuple[int, ...]
    taps: int

    @staticmethod
    def of(window: Window, d: int, out: int) -> _Phase:
        stride, dilation = window.strides[d], window.dilations[d]
        split = stride > 1 and dilation == 1 and out % stride == 0
        extents = (out // stride, stride) if split else (out,)
        taps = -(-window.kernel[d] // stride) if split else window.kernel[d]
        return _Phase(stride, dilation, window.begin[d], window.kernel[d], extents, taps)

    def read(self, at: tuple[Expr, ...], tap: Expr) -> tuple[Expr, Expr, Expr | None]:
        """Input position, kernel element, and a condition for both to count."""
        if len(self.extents) == 2:
            quotient, phase = at
            shifted = phase + self.pad
            offset = tap * self.stride + shifted % self.stride
            fits = None if self.kernel % self.stride == 0 else offset < self.kernel
            return quotient + shifted // self.stride - tap, offset, fits
        distance = at[0] + self.pad - tap * self.dilation
        if self.stride == 1:
            return distance, tap, None
        return distance // self.stride, tap, eq(distance % self.stride, 0)

    def write(self, at: tuple[Expr, ...]) -> Expr:
        """Output position."""
        return at[0] * self.stride + at[1] if len(self.extents) == 2 else at[0]


@rule("Col2Im")
def _col2im(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    image, kernel = node.ints(1, "image shape") or [], node.ints(2, "block shape") or []
    rank, shape = len(image), out.static_shape()
    pads = node.attr("pads", (0,) * (2 * rank))
    window = Window(
        tuple(image),
        tuple(kernel),
        tuple(node.attr("strides", (1,) * rank)),
        tuple(node.attr("dilations", (1,) * rank)),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
    )
    columns = [
        (image[d] + pads[d] + pads[rank + d] - (kernel[d] - 1) * window.dilations[d] - 1) // window.strides[d] + 1
        for d in range(rank)
    ]

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        at, taps = rest[:rank], rest[rank:]
        row, column = c, as_expr(0)
        inside: Expr = const(True, "bool")
        for d in range(rank):
            distance = at[d] + window.begin[d] - taps[d] * window.dilations[d]
            place = distance // window.strides[d]
            inside = inside & within(place, columns[d]) & eq(distance % window.strides[d], 0)
            row, column = row * kernel[d] + taps[d], column * columns[d] + place
        return wide(x.guarded(b.simplified(inside), (n, row, column)))

    return b.reduce(out.dtype, shape, kernel, "sum", body)
