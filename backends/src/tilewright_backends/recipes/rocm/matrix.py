"""`rocm.matrix`: contractions of float16 or bfloat16 operands on the matrix units, summed in float32."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.recipes import Constraint, Match
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import ceil_div, divides, on_rocm
from tilewright_backends.recipes.gpu.tensor import packs
from tilewright_backends.recipes.gpu.tensor_product import Costs, described, product_of
from tilewright_backends.recipes.rocm.units import SIDE, unit_for

NAME = "matrix"
STAGES = 2
"""Tiles of each operand in shared memory: one is multiplied, the next one is filled."""


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    unit = unit_for(device)
    product = product_of(kernel, device) if unit is not None else None
    if unit is None or product is None:
        return None
    (mb, nb), ks, (mw, nw), threads = product.block, product.step, product.warp, product.threads
    ahead = ceil_div(mb * ks, threads * 2) + ceil_div(nb * ks, threads * 2) + 8
    # LLVM loads what all instructions of a step multiply before the first of them; the factor is from sampled kernels.
    fragments = (mw // SIDE + nw // SIDE) * unit.held * ks * 5 // 128
    turned = sum(packs(x) or not x.along_k for x in (product.detail.rows, product.detail.columns))
    costs = Costs(
        registers=mw * nw // device.warp + fragments + ahead + 16,
        shared=(mb + nb) * ks * (2 * STAGES),
        # Gathered operands are loaded element by element; those that do not lie along the reduction are sorted in
        # registers.
        efficiency=70 - 20 * product.gathered - 10 * turned,
        serial=product.trips * 6 + 20,
    )
    constraints = (
        divides(ks, 64, "steps of the reduction are 16, 32 or 64"),
        Constraint(ahead, const(72), "registers that a thread loads ahead"),
    )
    return described(f"rocm.{NAME}", product, costs, constraints)


RECIPE = on_rocm(NAME, match, 30)
