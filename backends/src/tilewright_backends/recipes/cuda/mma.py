"""`cuda.mma`: contractions of float16 or bfloat16 operands by `mma.sync`, summed in float32 (sm_80 and later)."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.recipes import Constraint, Match, Recipe
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import ceil_div, parameter
from tilewright_backends.recipes.gpu.tensor import ALIGNMENT
from tilewright_backends.recipes.gpu.tensor_product import Costs, described, product_of

NAME = "cuda.mma"


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    product = product_of(kernel, device)
    if product is None:
        return None
    ring = parameter("stages", (2, 3, 4))
    (mb, nb), ks, (mw, nw), stages = product.block, product.step, product.warp, ring.var
    shared = (ceil_div(mb * ks * 2 * stages, ALIGNMENT) + ceil_div(nb * ks * 2 * stages, ALIGNMENT)) * ALIGNMENT + 256
    ahead = ceil_div((mb + nb) * ks, product.threads * 2) * product.gathered
    costs = Costs(
        registers=mw * nw // device.warp + mw // 4 + nw // 4 + ahead + 48,
        shared=shared,
        # Gathered operands are loaded element by element.
        efficiency=75 - 30 * product.gathered,
        serial=product.trips * 12 // (stages + 1) + 20,
        barriers=1,
    )
    constraints = (
        Constraint(const(2), stages, "the ring needs two stages"),
        Constraint(ahead, const(64), "registers that a thread loads ahead"),
    )
    return described(NAME, product, costs, constraints, (ring,))


RECIPE = Recipe(NAME, "cuda", match, priority=30)
