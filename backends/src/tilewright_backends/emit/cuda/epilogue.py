"""The epilogue of tensor core kernels: every thread holds pairs of neighbouring columns in rows 8 apart."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import attrs

from tilewright.ir.expr import Expr
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.points import contiguous, count, decompose, point_at, store_words, varies
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
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
                        _pair(body, spec, c, at, piece, place)
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


def _pair(body: Body, spec: FlatSpec, c: Contraction, at: Mapping[str, Expr], piece: Piece, place: Expr) -> None:
    """Two neighbouring columns: reads that the column does not change once, stores as one word where they can."""
    inner = c.n[-1]
    start = point_at(body, spec, at)
    used = range(spec.body_reads, len(spec.reads))
    common = {slot: start.load(slot) for slot in used if not varies(spec, slot, inner.name)}
    wide = [
        body.registers(types.storage(s.value.dtype), 2, "out") if contiguous(spec, s, inner, 2) else None
        for s in spec.stores
    ]
    for lane in range(2):
        value = piece.sums[body.index(body.simplify(place + lane))]
        here = {**at, inner.name: body.simplify(at[inner.name] + lane)}
        point = point_at(body, spec, here, [value], common)
        for store, registers in zip(spec.stores, wide, strict=True):
            if registers is None:
                point.store(store)
            else:
                stored = types.to_storage(point.value(store.expr), store.value.dtype)
                body.store(registers, types.literal(lane, "int32"), stored)
    for store, registers in zip(spec.stores, wide, strict=True):
        if registers is not None:
            target = body.params[store.value.name]
            store_words(body, store.value.dtype, 2, registers, target, start.index(store.address))
