"""Products of 16-bit floats in `cuda.stages`, by `mma.sync`.

Lane `4 g + t` holds rows `g` and `g + 8` and columns `2 t` and `2 t + 1` of a piece of 8.
"""

from __future__ import annotations

from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.gpu import stage_product
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.lower.types import Prim


def emit(body: Body, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of `cuda.stages`."""
    stage_product.emit(body, kernel, staged, _Mma)


class _Mma(stage_product.StageUnit):
    piece = 8

    def __init__(self, body: Body, lane: Expr) -> None:
        self.body = body
        g, t = body.hold(lane // 4, "g"), body.hold(lane % 4, "t")
        self.rows = [g, g + 8]
        self.column = g
        self.depths = [t * 2 + x for x in (0, 1, 8, 9)]
        # Rows g and g + 8 at the first two points of a lane, then both at the other two.
        self.row_elements = [(half, point) for pair in (0, 2) for half in range(2) for point in (pair, pair + 1)]
        self.sums = [(half, t * 2 + right) for half in range(2) for right in range(2)]

    def multiply(self, dtype: str, sums: Prim, first: int, rows: Prim, columns: Prim) -> None:
        words = self.body.view(rows, "uint32", 4), self.body.view(columns, "uint32", 2)
        pointers = [tir_op.address_of(x) for x in (sums[i32(first)], words[0][i32(0)], words[1][i32(0)])]
        self.body.call(f"tw_mma_{dtype}", *pointers, source=ptx.MMA[dtype])
