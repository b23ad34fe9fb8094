"""Products of 16-bit floats in `rocm.stages`, on matrix units."""

from __future__ import annotations

from tilewright.ir.expr import Expr
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.gpu import stage_product, stages
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.emit.rocm.fragments import Lanes
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.rocm.units import SIDE, unit_of


def emit(body: RocmBody, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of `rocm.stages`."""
    unit = unit_of(body.arch)
    if unit is None:
        stages.emit(body, kernel, staged)
        return
    stage_product.emit(body, kernel, staged, lambda body, lane: _Matrix(Lanes(body, unit), lane))


class _Matrix(stage_product.StageUnit):
    piece = SIDE

    def __init__(self, lanes: Lanes, lane: Expr) -> None:
        self.lanes, unit = lanes, lanes.unit
        self.rows = [lanes.low]
        self.column = lanes.dealt
        self.depths = [unit.depth(lane, e) for e in range(unit.held)]
        self.row_elements = [(0, e) for e in range(unit.held)]
        self.sums = [(0, lanes.first + e) for e in range(unit.sums)]

    def multiply(self, dtype: str, sums: Prim, first: int, rows: Prim, columns: Prim) -> None:
        self.lanes.multiply(dtype, sums, first // self.lanes.unit.sums, columns, 0, rows, 0)
