"""`simt`: contractions on the ordinary arithmetic units, convolutions as implicit products included."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Const, Expr, apply, const, maximum, select
from tilewright.ir.polynomial import literal_factor
from tilewright.recipes import Constraint, Match, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.recipes.contraction import Contraction, Operand, plain_slot
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    counted,
    divides,
    most,
    on_gpus,
    parameter,
    powers,
    symbolic_spec,
)
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.gpu.roles import roles_of, stride
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "simt"


@attrs.frozen
class SimtDetail:
    """The specification, its roles, and the slots of its constant operands (None: read as it is)."""

    spec: FlatSpec
    roles: Contraction
    constants: tuple[int | None, int | None]


def detail_of(kernel: KernelSpec) -> SimtDetail | None:
    """The roles of a contraction, or None when the kernel is none or sums in a type that tiles cannot hold."""
    spec = symbolic_spec(kernel)
    roles = roles_of(spec)
    if roles is None or roles.state not in ("float32", "float64", "int32", "int64"):
        return None
    constants = tuple(_constant(kernel, spec, roles, x) for x in (roles.rows, roles.columns))
    return SimtDetail(spec, roles, (constants[0], constants[1]))


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    detail = detail_of(kernel)
    if detail is None:
        return None
    roles = detail.roles
    m, n, k, batch = (most(detail.spec, x) for x in (roles.m, roles.n, roles.k, roles.batch))
    if min(m, n) < 4:
        return None
    size = dtypes.size_of(roles.state)
    parameters = (
        parameter("m.block", _sizes(m), align=4, role="m", level="shared"),
        parameter("n.block", _sizes(n), align=4, role="n", level="shared"),
        parameter("k.step", (8, 16, 32), align=4, role="k", level="shared"),
        parameter("m.thread", (2, 4, 8), align=2, role="m", level="register"),
        parameter("n.thread", (2, 4, 8), align=2, role="n", level="register"),
        parameter("slices", (1, 2, 4, 8), role="k", level="block"),
    )
    mb, nb, ks, mt, nt, slices = (p.var for p in parameters)
    team = maximum((mb // mt) * (nb // nt), 1)
    threads = team * slices
    shared = maximum((mb + nb + 8) * ks * slices * 2, (slices - 1) * mb * nb) * size + 32
    ahead = ceil_div((mb + nb) * ks, team)
    registers = (mt * nt + mt + nt + ahead) * (size // 4) + 28
    if device.kind == "rocm":
        # LLVM keeps what the address of each gathered element is computed from.
        registers = registers + _gathered(detail, (mb, nb), ks, team) * 4
    tasks = ceil_div(m, mb) * ceil_div(n, nb) * batch
    trips = ceil_div(k, ks * slices)
    axes = {"m": _names(roles.m), "n": _names(roles.n), "k": _names(roles.k), "batch": _names(roles.batch)}
    packed = {s: role for s, role in zip(detail.constants, ("m", "n"), strict=True) if s is not None}
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=axes,
        extents={"m": m, "n": n, "k": k, "batch": batch},
        parameters=parameters,
        constraints=(
            divides(mt, mb, "threads share the rows of a block evenly"),
            divides(nt, nb, "threads share the columns of a block evenly"),
            Constraint(ahead, const(32), "elements that a thread loads ahead"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=_work(detail, tasks, trips, (mb, nb, ks, mt, nt, slices), size),
        operands=operands_of(detail.spec, axes, padding=4, packed=packed),
        tiles={"register": {"m": mt, "n": nt}, "shared": {"m": mb, "n": nb, "k": ks * slices}},
        packings=_Packings(kernel, detail),
        count=_count(roles, mb, nb) if detail.spec.symbols else None,
        detail=detail,
    )


def _count(roles: Contraction, m_block: Expr, n_block: Expr) -> Expr:
    """The number of tasks by the values of the symbols."""
    return ceil_div(counted(roles.m), m_block) * ceil_div(counted(roles.n), n_block) * counted(roles.batch)


def _constant(kernel: KernelSpec, spec: FlatSpec, roles: Contraction, operand: Operand) -> int | None:
    """The slot of a constant operand whose shape has no symbols."""
    own = (*operand.outer, *roles.k)
    fixed = all(isinstance(x.extent, Const) for x in own)
    return operand.constant_slot(spec, kernel.constants) if fixed else None


def _work(detail: SimtDetail, tasks: Expr, trips: Expr, sizes: tuple[Expr, ...], size: int) -> Work:
    mb, nb, ks, mt, nt, slices = sizes
    padded = trips * slices * ks
    out = sum(most(detail.spec, detail.spec.spatial) * dtypes.size_of(s.value.dtype) for s in detail.spec.stores)
    products = mt * nt
    # Runs of four points are loaded at once, others in pairs.
    loads = sum((x // select(apply("floormod", x, const(4)) < 1, const(4), const(2)) for x in (mt, nt)), const(0))
    sides = zip((mb, nb), (detail.roles.rows, detail.roles.columns), detail.constants, strict=True)
    filled = sum((block * _filling(detail, operand, slot) for block, operand, slot in sides), const(0))
    filling = filled // maximum((mb // mt) * (nb // nt), 1)
    return Work(
        flops=tasks * mb * nb * padded * 2,
        traffic={
            "dram": const(memory_bytes(detail.spec)),
            "l2": tasks * (mb + nb) * padded * size + out,
            # A quarter of what the threads read: neighbours read the same words.
            "shared": tasks * (mb * nb) * padded * size // (mt * 4) + tasks * (mb * nb) * padded * size // (nt * 4),
        },
        # Loads and what fills the tiles compete with the products for issue slots.
        efficiency=products * 85 // (products + loads * 2 + 4 + filling),
        # One tile is loaded ahead, which hides about half of the latency of the loads.
        serial=trips * 10 + 8 + slices * 2,
    )


def _filling(detail: SimtDetail, operand: Operand, constant: int | None) -> int:
    """Instructions, about, that bring an element of an operand into a shared tile."""
    if constant is not None:
        return 1
    slot = plain_slot(operand.value)
    if slot is None or detail.spec.reads[slot].guard is not None:
        return 9
    vectors = [
        stride(detail.spec, slot, axes[-1]) == 1 and literal_factor(axes[-1].extent) % 4 == 0
        for axes in (detail.roles.k, operand.outer)
        if axes
    ]
    return 2 if any(vectors) else 5


def _gathered(detail: SimtDetail, blocks: tuple[Expr, Expr], step: Expr, team: Expr) -> Expr:
    """Elements that a thread loads ahead one by one, each by an address of its own."""
    total: Expr = const(0)
    for block, operand, slot in zip(blocks, (detail.roles.rows, detail.roles.columns), detail.constants, strict=True):
        if _filling(detail, operand, slot) > 2:
            total = total + ceil_div(block * step, team)
    return total


@attrs.frozen
class _Packings:
    """Constant operands stored as [tile][k][point of the tile]."""

    kernel: KernelSpec
    detail: SimtDetail

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        roles = self.detail.roles
        found = []
        for slot, outer, block in zip(self.detail.constants, (roles.m, roles.n), ("m.block", "n.block"), strict=True):
            if slot is not None:
                step = params["k.step"] * params["slices"]
                found.append(pack_operand(self.kernel, slot, outer, roles.k, params[block], step))
        return tuple(found)


def _names(axes: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(x, "name", "")) for x in axes)


def _sizes(limit: int) -> tuple[int, ...]:
    """Block sizes from 8 to 256, not much beyond the extent."""
    return tuple(x for x in powers(8, 256) if x < 2 * max(limit, 8))


CUDA, ROCM = on_gpus(NAME, match, 20)
