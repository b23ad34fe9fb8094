"""The epilogue of tensor core kernels: every thread holds pairs of neighbouring columns in rows 8 apart."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import attrs

from tilewright.ir.expr import Expr
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.gpu.neighbours import store_neighbours
from tilewright_backends.emit.gpu.points import count, decompose, point_at
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Contraction


@attrs.frozen
class Piece:
    """The sums of one thread, as the accumulators of `mma` and `wgmma` lie.

    Args:
        sums: for row block i and column block j (8 columns): two columns of row 0, then of row 8.
        rows: number of row blocks.
        columns: number of column blocks.
        row: the thread's first row in the result.
        column: its first column, even.
        row_step: rows from one row block to the next.
    """

    sums: Prim
    rows: int
    columns: int
    row: Expr
    column: Expr
    row_step: int = 16


def store_pieces(body: Body, spec: FlatSpec, c: Contraction, batch: Mapping[str, Expr], piece: Piece) -> None:
    """Runs the epilogue at every point of a thread's piece."""
    inner = c.n[-1] if c.n else None
    paired = inner is not None and count((inner,)) % 2 == 0
    m_total, n_total = count(c.m), count(c.n)
    with body.loop("i", piece.rows, "unrolled") as i, body.loop("h", 2, "unrolled") as h:
        row = body.hold(piece.row + i * piece.row_step + h * 8, "m")
        with _inside(body, row, m_total):
            at_row = decompose(row, c.m, body)
            with body.loop("j", piece.columns, "unrolled") as j:
                first = body.hold(piece.column + j * 8, "n")
                place = (i * piece.columns + j) * 4 + h * 2
                if paired:
                    with _inside(body, first, n_total):
                        at = {**batch, **at_row, **decompose(first, c.n, body)}
                        assert inner is not None
                        store_neighbours(body, spec, at, inner, 2, partial(_sums, body, piece, place), spec.body_reads)
                else:
                    for lane in range(2):
                        column = body.hold(first + lane, "n")
                        with _inside(body, column, n_total):
                            value = piece.sums[body.index(body.simplify(place + lane))]
                            at = {**batch, **at_row, **decompose(column, c.n, body)}
                            point = point_at(body, spec, at, [value])
                            for store in spec.stores:
                                point.store(store)


def _inside(body: Body, number: Expr, total: int) -> AbstractContextManager[None]:
    """`if number < total`, nothing where that always holds."""
    inside = body.below(number, total)
    return nullcontext() if inside is None else body.when(inside)


def _sums(body: Body, piece: Piece, place: Expr, lane: int, point: Point) -> list[Prim]:
    return [piece.sums[body.index(body.simplify(place + lane))]]
