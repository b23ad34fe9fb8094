"""`rocm.attention`: softmax between contractions of float16 or bfloat16, in one pass over the keys, on matrix units."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import const, minimum
from tilewright.recipes import Constraint, Match
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.gpu.attention import Tiling, described, heads_of, parameters_of
from tilewright_backends.recipes.gpu.common import divides, on_rocm, parameter
from tilewright_backends.recipes.gpu.tensor import CHUNK
from tilewright_backends.recipes.rocm.units import SIDE, unit_for

NAME = "attention"
STAGES = 2
"""Tiles of keys and of values in shared memory: one is multiplied, the next one is filled."""
_BESIDE = 72
"""Registers besides operands and sums: addresses, what a score's power is computed with."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as attention, or None when they are not, or the heads are too wide."""
    unit = unit_for(device)
    heads = heads_of(staged, device) if unit is not None else None
    if unit is None or heads is None:
        return None
    sizes = heads.sizes
    warp = parameter("rows.warp", (16, 32), align=SIDE, role="rows", level="register")
    parameters = (*parameters_of(heads, 64), warp)
    block, step, rows = (p.var for p in parameters)
    tiling = Tiling(heads, block, step, rows, const(STAGES))
    loads = tiling.loads()
    ahead = (loads[1] + loads[2]) * (CHUNK // 2)
    half = unit.held // 2
    # Of 16 rows: queries, where they stay, sums, scores and weights of a step; and more, as LLVM was seen to take.
    queries = half if unit.shared else sizes.depth // SIDE * half
    more = (12, 2) if unit.shared else (4, 0)
    of_rows = step // SIDE * (unit.sums + half + more[0]) + (queries + sizes.columns // SIDE * (unit.sums + more[1]))
    # Loads have addresses that stay over all steps.
    wanted = rows // SIDE * of_rows + ahead + loads[1] + loads[2] + 4 * heads.found.epilogue_reads + _BESIDE
    constraints = (
        divides(rows, block, "waves share the rows of a block evenly"),
        Constraint(wanted, const(255), "registers of a lane"),
        Constraint(loads[0] * (CHUNK // 2), const(64), "registers that a thread loads ahead"),
        Constraint(ahead, const(64), "registers that a thread loads ahead for a step"),
    )
    return described(f"rocm.{NAME}", tiling, parameters, minimum(wanted, const(255)), constraints)


RECIPE = on_rocm(NAME, match, 30, takes=StagedSpec)
