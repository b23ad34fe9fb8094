"""DFT and STFT as contractions with tables of sines and cosines, carried in float64: the sums cancel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.frontend.legalize.builder import Builder, Tensor, within
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir.expr import Expr, cast

rule = Family()


def _twiddles(length: int, rows: int, columns: int, parts: tuple[int, int], inverse: bool) -> npt.NDArray[Any]:
    """Table `[input position, output position, input part, output part]` of the transform; a part is real or imaginary.

    A real output of the inverse counts the missing half of the spectrum through its symmetry.
    """
    angle = 2 * np.pi * np.outer(np.arange(rows), np.arange(columns)) / length
    cosine, sine = np.cos(angle), np.sin(angle) * (1 if inverse else -1)
    table = np.stack((np.stack((cosine, sine), -1), np.stack((-sine, cosine), -1)), -2)[:, :, : parts[0], : parts[1]]
    if inverse:
        table = table / length
        if parts[1] == 1 and parts[0] == 2:
            twice = np.full(rows, 2.0)
            twice[0] = 1.0
            if length % 2 == 0 and rows > length // 2:
                twice[length // 2] = 1.0
            table = table * twice[:, None, None, None]
    return table


@rule("DFT")
def _dft(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    if node.version >= 20:
        given = node.ints(2, "axis")
        axis = node.normal_axis(given[0] if given else -2, x.rank)
    else:
        axis = node.axis(x.rank, 1)
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    lengths = node.ints(1, "length")
    if lengths:
        length = lengths[0]
    else:
        length = 2 * (x.shape[axis] - 1) if inverse and onesided else x.shape[axis]
    shape = out.static_shape()
    rows = min(x.shape[axis], length // 2 + 1 if inverse and onesided else length)
    parts = (x.shape[-1], shape[-1])
    factors = b.constant(_twiddles(length, rows, shape[axis], parts, inverse), "twiddles")

    def body(*i: Expr) -> Expr:
        at, part = i[-2], i[-1]
        point = tuple(at if d == axis else here for d, here in enumerate(i[: x.rank - 1]))
        return cast(x[(*point, part)], "float64") * factors[at, i[axis], part, i[x.rank - 1]]

    return b.reduce(out.dtype, shape, (rows, parts[0]), "sum", body)


@rule("STFT")
def _stft(b: Builder, node: Node) -> Tensor:
    x, window, out = node[0], node.get(2), node.out()
    step = (node.ints(1, "frame step") or [1])[0]
    lengths = node.ints(3, "frame length")
    length = lengths[0] if lengths else (window.shape[0] if window is not None else x.shape[1])
    shape = out.static_shape()
    parts = x.shape[-1] if x.rank == 3 else 1
    factors = b.constant(_twiddles(length, length, shape[2], (parts, 2), False), "twiddles")

    def body(n: Expr, frame: Expr, k: Expr, to: Expr, at: Expr, part: Expr) -> Expr:
        position = frame * step + at
        index = (n, position, part) if x.rank == 3 else (n, position)
        value = cast(x.guarded(within(position, x.shape[1]), index), "float64")
        if window is not None:
            value = value * cast(window[at], "float64")
        return value * factors[at, k, part, to]

    return b.reduce(out.dtype, shape, (length, parts), "sum", body)
