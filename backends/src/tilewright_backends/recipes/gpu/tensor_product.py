"""What recipes share whose warps multiply 16-bit tiles from shared memory: `cuda.mma` and `rocm.matrix`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Expr, const, maximum
from tilewright.recipes import Constraint, Match, Parameter, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    divides,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.gpu.tensor import TensorDetail, axes_of, detail_of, packed_slots, packs, warp_unit
from tilewright_backends.recipes.operands import memory_bytes, operands_of

SIDE = 16
"""What the sides of tiles are multiples of."""
_LEAST = 8
"""Rows and columns: with fewer, more than half of an instruction would be idle."""


@attrs.frozen
class Product:
    """A contraction of 16-bit operands, and the sizes of its tiles as formulas.

    Args:
        unit: the peak of the device that counts.
        parameters: sizes of a block, of a step along the reduction, of a warp.
    """

    kernel: KernelSpec
    device: DeviceModel
    detail: TensorDetail
    unit: str
    extents: Mapping[str, int]
    parameters: tuple[Parameter, ...]

    @property
    def block(self) -> tuple[Expr, Expr]:
        """Rows and columns of a block."""
        return self.parameters[0].var, self.parameters[1].var

    @property
    def step(self) -> Expr:
        return self.parameters[2].var

    @property
    def warp(self) -> tuple[Expr, Expr]:
        """Rows and columns of a warp."""
        return self.parameters[3].var, self.parameters[4].var

    @property
    def threads(self) -> Expr:
        (m_block, n_block), (m_warp, n_warp) = self.block, self.warp
        return maximum((m_block // m_warp) * (n_block // n_warp), 1) * self.device.warp

    @property
    def trips(self) -> Expr:
        """Steps along the reduction."""
        return ceil_div(self.extents["k"], self.step)

    @property
    def gathered(self) -> int:
        """Operands that are loaded element by element."""
        return sum(not (x.chunked or x.constant) for x in (self.detail.rows, self.detail.columns))


def product_of(kernel: KernelSpec, device: DeviceModel) -> Product | None:
    """The kernel as such a contraction, or None when it is none, or too thin."""
    detail = detail_of(kernel)
    unit = warp_unit(device, detail.rows.dtype) if detail is not None else None
    if detail is None or unit is None:
        return None
    roles = detail.roles
    extents = {name: points(getattr(roles, name)) for name in ("m", "n", "k", "batch")}
    if min(extents["m"], extents["n"]) < _LEAST:
        return None
    parameters = (
        parameter("m.block", _sizes(extents["m"]), align=SIDE, role="m", level="shared"),
        parameter("n.block", _sizes(extents["n"]), align=SIDE, role="n", level="shared"),
        parameter("k.step", (32, 64), align=SIDE, role="k", level="shared"),
        parameter("m.warp", (16, 32, 64), align=SIDE, role="m", level="register"),
        parameter("n.warp", (16, 32, 64), align=SIDE, role="n", level="register"),
    )
    return Product(kernel, device, detail, unit, extents, parameters)


def _sizes(limit: int) -> tuple[int, ...]:
    """Block sizes up to 256, not much beyond the extent."""
    return tuple(x for x in powers(32, 256) if x < 2 * max(limit, 32))


@attrs.frozen
class Costs:
    """What a recipe says of a product.

    Args:
        registers: of a thread.
        shared: bytes of a block.
        efficiency: percent of the unit's peak that large warp tiles reach.
        serial: steps that wait for each other.
        barriers: hardware barriers.
    """

    registers: Expr
    shared: Expr
    efficiency: int
    serial: Expr
    barriers: int = 0


def described(
    recipe: str, product: Product, costs: Costs, constraints: Sequence[Constraint], more: Sequence[Parameter] = ()
) -> Match:
    """The match of a recipe.

    Args:
        constraints, more: constraints and parameters of its own.
    """
    detail, extents, device = product.detail, product.extents, product.device
    (mb, nb), ks, (mw, nw), trips = product.block, product.step, product.warp, product.trips
    tasks = ceil_div(extents["m"], mb) * ceil_div(extents["n"], nb) * extents["batch"]
    flops = tasks * mb * nb * trips * ks * 2
    out = sum(points(detail.spec.spatial) * dtypes.size_of(s.value.dtype) for s in detail.spec.stores)
    area, axes = mw * nw, axes_of(detail)
    return Match(
        recipe=recipe,
        roles=axes,
        extents=dict(extents),
        parameters=(*product.parameters, *more),
        constraints=(
            divides(mw, mb, "warps share the rows of a block evenly"),
            divides(nw, nb, "warps share the columns of a block evenly"),
            *constraints,
            *block_limits(product.threads, costs.registers, costs.shared, device),
        ),
        usage=Usage(tasks, product.threads, costs.registers, costs.shared, const(costs.barriers)),
        work=Work(
            flops=flops,
            traffic={
                "dram": const(memory_bytes(detail.spec)),
                "l2": tasks * (mb + nb) * trips * ks * 2 + out,
                "shared": flops // mw + flops // nw,
            },
            efficiency=area * costs.efficiency // (area + 512),
            unit=product.unit,
            serial=costs.serial,
        ),
        operands=operands_of(detail.spec, axes, packed=packed_slots(detail)),
        tiles={"register": {"m": mw, "n": nw, "k": const(SIDE)}, "shared": {"m": mb, "n": nb, "k": ks}},
        packings=Packings(product.kernel, detail),
        detail=detail,
    )


@attrs.frozen
class Packings:
    """Constant operands that memory does not hold in whole chunks, stored as [tile][k][point of the tile].

    Args:
        step: extent of `k` in a tile; None where it is the choice's `k.step`.
    """

    kernel: KernelSpec
    detail: TensorDetail
    step: int | None = None

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        roles = self.detail.roles
        step = params["k.step"] if self.step is None else self.step
        sides = ((self.detail.rows, roles.m, "m.block"), (self.detail.columns, roles.n, "n.block"))
        return tuple(
            pack_operand(self.kernel, operand.slot, outer, roles.k, params[block], step)
            for operand, outer, block in sides
            if packs(operand)
        )
