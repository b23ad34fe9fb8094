"""`cuda.thin`: products of a few rows with a large matrix, which cost what it takes to read the matrix once (sm_80).

The large operand goes from memory to the tensor cores' registers, in 16-byte pieces along the reduction. The warps of a
block share the reduction. A constant is stored in the order in which the warps read it.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import const
from tilewright.recipes import Constraint, Match, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import block_limits, ceil_div, parameter, points, powers
from tilewright_backends.recipes.gpu.packing import pack_pieces
from tilewright_backends.recipes.gpu.tensor import HalfOperand, TensorDetail, axes_of
from tilewright_backends.recipes.gpu.tensor import detail_of as tensor_detail
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "cuda.thin"
ROWS = 8
"""Points of the thin operand in an instruction."""
WIDE = 16
"""Points of the wide one."""
GROUP = 32
"""Reduction points that a warp takes at a time, in two instructions."""
PAD = 4
"""Elements behind a line of partial sums, so that the lines of a warp's lanes lie in different banks."""
_MOST = 64


@attrs.frozen
class ThinDetail:
    """A contraction one of whose sides has few points.

    Args:
        thin: the role of that side, "m" or "n".
    """

    tensor: TensorDetail
    thin: str

    @property
    def wide(self) -> str:
        """The role of the other side."""
        return "n" if self.thin == "m" else "m"

    def operand(self, role: str) -> HalfOperand:
        """The factor that varies with a role."""
        return self.tensor.rows if role == "m" else self.tensor.columns


def detail_of(kernel: KernelSpec) -> ThinDetail | None:
    """The roles of a contraction of 16-bit values with a thin side, or None.

    Both operands must lie along the reduction in whole 16-byte pieces, except that a constant wide one may lie anyhow.
    """
    tensor = tensor_detail(kernel)
    if tensor is None:
        return None
    sizes = {"m": points(tensor.roles.m), "n": points(tensor.roles.n)}
    thin = min(sizes, key=lambda role: sizes[role])
    found = ThinDetail(tensor, thin)
    few, many = found.operand(thin), found.operand(found.wide)
    if not 0 < sizes[thin] <= _MOST or sizes[found.wide] < WIDE or not points(tensor.roles.k):
        return None
    if not (few.along_k and few.chunked):
        return None
    return found if many.constant or (many.along_k and many.chunked) else None


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    detail = detail_of(kernel) if device.has("mma.sync") else None
    if detail is None:
        return None
    spec, roles = detail.tensor.spec, detail.tensor.roles
    extents = {role: points(getattr(roles, role)) for role in ("m", "n", "k", "batch")}
    k, batch = extents["k"], extents["batch"]
    thin, wide = -(-extents[detail.thin] // ROWS), extents[detail.wide]
    groups = -(-k // GROUP)
    block = f"{detail.wide}.block"
    sizes = [x for x in powers(WIDE, 128) if x < 2 * max(wide, WIDE)]
    parameters = (
        parameter(block, sizes, align=WIDE, role=detail.wide, level="block"),
        parameter("warps", powers(1, 32)),
        parameter("ahead", (1, 2, 4)),
    )
    wb, warps, ahead = (p.var for p in parameters)
    threads = warps * device.warp
    registers = (wb // WIDE) * (4 * thin) + ahead * ((wb // WIDE) * 8 + 4 * thin) + 40
    shared = warps * (thin * ROWS * 4) * (wb + PAD)
    tasks = ceil_div(wide, wb) * batch
    trips = ceil_div(groups, warps * ahead)
    out = sum(points(spec.spatial) * dtypes.size_of(s.value.dtype) for s in spec.stores)
    half = "fp16" if detail.tensor.rows.dtype == "float16" else "bf16"
    axes = axes_of(detail.tensor)
    many = detail.operand(detail.wide)
    return Match(
        recipe=NAME,
        roles=axes,
        extents=extents,
        parameters=parameters,
        constraints=(
            Constraint(warps * ahead, const(groups), "warps that have a part of the reduction"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared),
        work=Work(
            flops=tasks * wb * trips * warps * ahead * (thin * ROWS * GROUP * 2),
            traffic={"dram": const(memory_bytes(spec)), "l2": tasks * (wb + thin * ROWS) * (k * 2) + out},
            efficiency=const(30),
            unit=f"{half}.mma",
            # A trip waits for memory; nothing of the next is under way meanwhile.
            serial=trips * 8 + warps // 4 + 12,
        ),
        operands=operands_of(spec, axes, packed={many.slot: "k"} if many.constant else {}),
        tiles={"block": {detail.wide: wb, "k": warps * ahead * GROUP}},
        packings=Packings(kernel, detail),
        detail=detail,
    )


def padded_groups(detail: ThinDetail, params: Mapping[str, int]) -> int:
    """Groups of the reduction, each trip of all warps whole."""
    together = params["warps"] * params["ahead"]
    return -(-points(detail.tensor.roles.k) // (GROUP * together)) * together


@attrs.frozen
class Packings:
    """A constant wide operand stored as [tile of 16][group][point][reduction point]."""

    kernel: KernelSpec
    detail: ThinDetail

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        wide, roles = self.detail.operand(self.detail.wide), self.detail.tensor.roles
        if not wide.constant:
            return ()
        block = params[f"{self.detail.wide}.block"]
        tiles = -(-points(wide.outer) // block) * (block // WIDE)
        groups = padded_groups(self.detail, params)
        return (pack_pieces(self.kernel, wide.slot, wide.outer, roles.k, (tiles, WIDE), (groups, GROUP)),)


RECIPE = Recipe(NAME, "cuda", match, priority=30)
