"""Results of a product as the rows of the next one, in shared memory."""

from __future__ import annotations

import attrs
from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr, const, minimum
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import Piece
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import HalfTilePlan
from tilewright_backends.emit.gpu.points import decompose, point_at, varies
from tilewright_backends.lower import types
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.flat_chain import Chain, Link
from tilewright_backends.recipes.gpu.tensor import CHUNK


@attrs.frozen
class HeldRows:
    """The rows operand of a link: a tile for each step of the reduction, one behind the other."""

    body: Body
    plan: HalfTilePlan
    buffer: Prim

    def words(self) -> Prim:
        """The elements in pairs."""
        return self.body.view(self.buffer, "uint32", int(self.buffer.shape[0]) // 2)

    def element(self, row: Expr, column: Expr) -> Prim:
        """Where the block's row lies at a reduction point."""
        body, plan = self.body, self.plan
        tile = body.index(body.simplify(column // plan.step * plan.elements))
        chunk = body.index(body.simplify(column % plan.step // CHUNK))
        return tile + plan.element(body.index(body.simplify(row)), chunk) + body.index(body.simplify(column % CHUNK))


def pass_on(body: Body, chain: Chain, link: Link, piece: Piece, base: Expr, to: HeldRows) -> None:
    """Runs a link's epilogue at every point of a thread's piece and stores what it gives as rows of the next link.

    Beyond the columns there are zeros. Rows beyond the last one repeat it.

    Args:
        piece: whose rows are those of the block.
        base: the block's first row.
    """
    words = to.words()
    with body.loop("j", piece.columns, "unrolled") as j:
        first = body.hold(piece.column + j * 8, "n")
        held = body.below(first, to.plan.padded)
        with body.when(held if held is not None else i32(1)):
            columns = [_column(body, link, body.simplify(first + lane)) for lane in range(2)]
            # Rows eight apart are swizzled alike, so a column has one place that all of the thread's rows start from.
            start = body.bind(to.element(piece.row, first), "start")
            with body.loop("i", piece.rows, "unrolled") as i, body.loop("h", 2, "unrolled") as h:
                below = body.simplify(i * piece.row_step + h * 8)
                there = body.hold(minimum(base + piece.row + below, const(chain.row_count - 1)), "at")
                at_row = decompose(there, link.roles.m, body)
                place = (i * piece.columns + j) * 4 + h * 2
                sums = [piece.sums[body.index(body.simplify(place + lane))] for lane in range(2)]
                pair = [x.value(body, link, at_row, y) for x, y in zip(columns, sums, strict=True)]
                name = chain.dtype
                word = body.call(f"tw_pair_{name}", *pair, source=ptx.PAIR[name], result="uint32")
                element = start + body.index(body.simplify(below * to.plan.row_pitch))
                body.store(words, tir_op.shift_right(element, i32(1)), word)


@attrs.frozen
class _Column:
    """One column of a link's result: where it is, what epilogues read there in every row, whether there is such one."""

    at: dict[str, Expr]
    loaded: dict[int, Prim]
    inside: Prim | None

    def value(self, body: Body, link: Link, at_row: dict[str, Expr], total: Prim) -> Prim:
        """What is passed on of a row, from the sum."""
        assert link.passed is not None
        point: Point = point_at(body, link.spec, {**at_row, **self.at}, [total], self.loaded)
        found = point.value(link.passed.expr)
        return found if self.inside is None else tirx.Select(self.inside, found, types.literal(0, "float32"))


def _column(body: Body, link: Link, number: Expr) -> _Column:
    inside = body.below(number, link.width)
    at = decompose(minimum(number, const(link.width - 1)), link.roles.n, body)
    start = point_at(body, link.spec, at)
    rows = [x.name for x in link.roles.m]
    slots = range(link.spec.body_reads, len(link.spec.reads))
    own = [slot for slot in slots if not any(varies(link.spec, slot, x) for x in rows)]
    return _Column(at, {slot: start.load(slot) for slot in own}, inside)


def pad(body: Body, first: int, to: HeldRows) -> None:
    """Zeros in the columns from `first` on, a multiple of 8, by all threads."""
    rows = to.plan.extent
    chunks = (to.plan.padded - first) // CHUNK * rows
    if chunks <= 0:
        return
    with body.loop("turn", -(-chunks // body.threads)) as turn:
        number = body.hold(turn * body.threads + body.thread, "pad")
        inside = body.below(number, chunks)
        with body.when(inside if inside is not None else i32(1)):
            column = body.hold(number // rows * CHUNK + first, "column")
            word = tir_op.shift_right(to.element(body.hold(number % rows, "row"), column), i32(1))
            for lane in range(CHUNK // 2):
                body.store(to.words(), word + lane, types.literal(0, "uint32"))
