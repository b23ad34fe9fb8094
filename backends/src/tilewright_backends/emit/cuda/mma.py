"""Contractions of 16-bit operands by `mma.sync` with a ring of shared tiles filled by `cp.async`."""

from __future__ import annotations

from tilewright.errors import InternalError
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.warp_tile import WarpTile
from tilewright_backends.emit.gpu.half_tiles import HalfTilePlan
from tilewright_backends.emit.gpu.tensor_product import ProductTiles, product
from tilewright_backends.recipes.gpu.tensor import detail_of


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.mma does not take kernel {kernel.name}.")
    names = ("m.block", "n.block", "k.step", "m.warp", "n.warp", "stages")
    product(body, kernel, detail, ProductTiles(*(kernel.choice[x] for x in names)), _sums)


def _sums(body: Body, tiles: ProductTiles, rows: HalfTilePlan, _: HalfTilePlan) -> WarpTile:
    return WarpTile(body, tiles.m_warp, tiles.n_warp, tiles.across, rows.operand.dtype)
