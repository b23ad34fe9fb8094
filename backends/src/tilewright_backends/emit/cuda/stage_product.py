"""A stage of `cuda.stages` that is a product of 16-bit floats: warps with `mma.sync`.

A warp takes 16 rows by up to 32 columns at a time. Lane `4 g + t` holds rows `g` and `g + 8` and columns `2 t` and
`2 t + 1` of a piece of 8; fragments come element by element from wherever the operands are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.gpu import stages
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.points import both, count, decompose
from tilewright_backends.emit.gpu.stages import Place
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.stages import COLUMNS, DEPTH, ROWS

_PIECE = 8


def emit(body: Body, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of `cuda.stages`."""
    stages.emit(body, kernel, staged, lambda *args: _StageProduct(*args).run())


class _StageProduct:
    """Emits one; the arguments are those of `Product`."""

    def __init__(
        self,
        body: Body,
        spec: FlatSpec,
        slots: tuple[int, int],
        totals: tuple[int, int],
        row: Callable[[Expr], Place],
        column: Callable[[Expr], Place],
        read: Callable[[int, dict[str, Expr], Prim | None], Prim],
        store: Callable[[dict[str, Expr], Prim | None, Prim], None],
    ) -> None:
        self.body, self.spec, self.slots, self.totals = body, spec, slots, totals
        self.row, self.column, self.read, self.store = row, column, read, store
        self.dtype = spec.reads[slots[0]].value.dtype
        self.pieces = min(COLUMNS // _PIECE, -(-totals[1] // _PIECE))

    def run(self) -> None:
        """Pieces of the stage, shared out among the warps of the block."""
        body, (rows, columns) = self.body, self.totals
        down, across = -(-rows // ROWS), -(-columns // (self.pieces * _PIECE))
        lane = body.hold(body.thread % 32, "lane")
        warp, warps = body.hold(body.thread // 32, "warp"), body.threads // 32
        self.g, self.t = body.hold(lane // 4, "g"), body.hold(lane % 4, "t")
        with body.loop("part", -(-(down * across) // warps)) as part:
            # All warps take part in every piece of the loop, for their instructions are the warp's; those that have
            # none left repeat the last one and store nothing.
            number = body.hold(part * warps + warp, "number")
            there = body.below(number, down * across)
            number = body.hold(minimum(number, const(down * across - 1)), "number")
            self._piece(body.hold(number // across * ROWS, "first"), number % across * (self.pieces * _PIECE), there)

    def _piece(self, first: Expr, left: Expr, there: Prim | None) -> None:
        body, storage = self.body, types.storage(self.dtype)
        sums = body.registers("float32", 4 * self.pieces, "sum")
        with body.repeat(4 * self.pieces, "clear") as i:
            body.store(sums, i, types.literal(0, "float32"))
        lines = [self.row(first + self.g + half * _PIECE) for half in range(2)]
        stands = [self.column(left + self.g + piece * _PIECE) for piece in range(self.pieces)]
        a, b = body.registers(storage, 8, "a"), body.registers(storage, 4, "b")
        words = body.view(a, "uint32", 4), body.view(b, "uint32", 2)
        total = count(self.spec.reduce)
        with body.loop("step", -(-total // DEPTH)) as step:
            depths = [self._depth(step * DEPTH + self.t * 2 + x, total) for x in (0, 1, 8, 9)]
            # Rows g and g + 8 at the first two points of a lane, then both at the other two.
            order = [(half, point) for pair in (0, 2) for half in range(2) for point in (pair, pair + 1)]
            for place, (half, point) in enumerate(order):
                self._fragment(a, place, 0, lines[half], depths[point])
            for piece in range(self.pieces):
                for point in range(4):
                    self._fragment(b, point, 1, stands[piece], depths[point])
                pointers = [tir_op.address_of(x) for x in (sums[i32(4 * piece)], words[0][i32(0)], words[1][i32(0)])]
                body.call(f"tw_mma_{self.dtype}", *pointers, source=ptx.MMA[self.dtype])
        self._finish(sums, lines, left, there)

    def _finish(self, sums: Prim, lines: Sequence[Place], left: Expr, there: Prim | None) -> None:
        for piece in range(self.pieces):
            for right in range(2):
                at, inside = self.column(left + self.t * 2 + (piece * _PIECE + right))
                for half in range(2):
                    row, valid = lines[half]
                    value = sums[i32(4 * piece + 2 * half + right)]
                    self.store({**row, **at}, both(there, both(valid, inside)), value)

    def _depth(self, number: Expr, total: int) -> Place:
        """A point of the reduction; those beyond count as zero."""
        number = self.body.hold(number, "k")
        inside = self.body.below(number, total)
        if inside is not None:
            number = self.body.hold(minimum(number, const(total - 1)), "k")
        return decompose(number, self.spec.reduce, self.body), inside

    def _fragment(self, into: Prim, place: int, side: int, outer: Place, depth: Place) -> None:
        value = self.read(self.slots[side], {**outer[0], **depth[0]}, both(outer[1], depth[1]))
        self.body.store(into, i32(place), types.to_storage(value, self.dtype))
