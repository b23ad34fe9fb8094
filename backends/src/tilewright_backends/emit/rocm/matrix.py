"""Contractions of 16-bit operands on the matrix units of AMD GPUs, through two stages of tiles in shared memory."""

from __future__ import annotations

from functools import partial

from tilewright.errors import InternalError
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.half_tiles import HalfTilePlan
from tilewright_backends.emit.gpu.tensor_product import ProductTiles, product
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.emit.rocm.wave_tile import WaveTile
from tilewright_backends.recipes.gpu.tensor import detail_of
from tilewright_backends.recipes.rocm.matrix import STAGES
from tilewright_backends.recipes.rocm.units import Unit, unit_of


def emit(body: RocmBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail, unit = detail_of(spec), unit_of(body.arch)
    if detail is None or unit is None:
        raise InternalError(f"rocm.matrix does not take kernel {kernel.name}.")
    sizes = [kernel.choice[x] for x in ("m.block", "n.block", "k.step", "m.warp", "n.warp")]
    product(body, kernel, detail, ProductTiles(*[*sizes, STAGES]), partial(_sums, unit))


def _sums(unit: Unit, body: RocmBody, tiles: ProductTiles, rows: HalfTilePlan, columns: HalfTilePlan) -> WaveTile:
    return WaveTile(body, unit, (tiles.m_warp, tiles.n_warp), tiles.across, rows, columns)
