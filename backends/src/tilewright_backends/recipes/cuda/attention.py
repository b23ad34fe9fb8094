"""`cuda.attention`: softmax between contractions of float16 or bfloat16, in one pass over the keys (from sm_80 on)."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import const, minimum
from tilewright.recipes import Constraint, Match, Recipe
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.gpu.attention import SIDE, Tiling, described, heads_of, parameters_of
from tilewright_backends.recipes.gpu.common import parameter
from tilewright_backends.recipes.gpu.tensor import CHUNK

NAME = "cuda.attention"

_MOST_REGISTERS = 288
"""What the assembler would like is more than what it needs: up to here it has never spilled into memory."""

_MOST_GATHERED = 16
"""The address of every element that is loaded ahead stays in registers over all steps: two to an element."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as attention, or None when they are not, or the heads are too wide."""
    heads = heads_of(staged, device)
    if heads is None:
        return None
    halves, sizes = heads.halves, heads.sizes
    least = SIDE if halves.key.chunked and halves.value.chunked else 64
    parameters = (*parameters_of(heads, least), parameter("stages", (2, 3)))
    block, step, stages = (p.var for p in parameters)
    tiling = Tiling(heads, block, step, const(SIDE), stages)
    loads = tiling.loads()
    pairs = zip(loads, (halves.query, halves.key, halves.value), strict=True)
    gathered = [mine * CHUNK // 2 if not operand.chunked else const(0) for mine, operand in pairs]
    ahead, all_ = gathered[1] + gathered[2], loads[0] + loads[1] + loads[2]
    fixed = sizes.depth * 3 // 8 + sizes.columns * 5 // 8 + 4 * heads.found.epilogue_reads + 64
    wanted = const(fixed) + step + gathered[0] + ahead + all_
    constraints = (
        Constraint(const(2), stages, "the ring needs two stages"),
        Constraint(wanted, const(_MOST_REGISTERS), "registers, some of which a thread can do without"),
        Constraint(gathered[0], const(64), "registers that a thread loads ahead"),
        Constraint(ahead, const(_MOST_GATHERED), "registers that a thread loads ahead for a step"),
        Constraint(all_, const(40), "copies that a thread starts for a step"),
    )
    return described(NAME, tiling, parameters, minimum(wanted, const(255)), constraints, spare=256)


RECIPE = Recipe(NAME, "cuda", match, priority=30, takes=StagedSpec)
