"""`cuda.chain`: products of float16 or bfloat16 after products, in one kernel (sm_80 and later)."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Expr, apply, const, maximum, minimum, variables
from tilewright.recipes import Constraint, Match, Operand, Recipe, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.cuda.flat_chain import Chain, Link, flat_chain
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    divides,
    extent,
    operations,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.gpu.tensor import ALIGNMENT
from tilewright_backends.recipes.rows import memory_bytes

NAME = "cuda.chain"
_PASSING = 8
"""Instructions for a value that goes to shared memory, besides its epilogue."""
_MOST_REGISTERS = 288
"""What the assembler would like is more than what it needs."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as a chain of products, or None when they are none."""
    if not device.has("mma.sync"):
        return None
    chain = flat_chain(staged)
    if chain is None:
        return None
    m, widths = chain.row_count, [x.width for x in chain.links]
    parameters = (
        parameter("m.block", _sizes(m), align=16, role="m", level="shared"),
        parameter("n.block", _sizes(max(widths)), align=16, role="n", level="shared"),
        parameter("k.step", (32, 64), align=16, role="k", level="shared"),
        parameter("m.warp", (16, 32, 64), align=16, role="m", level="register"),
        parameter("n.warp", (16, 32, 64), align=16, role="n", level="register"),
        parameter("stages", (2, 3, 4)),
    )
    mb, nb, ks, mw, nw, stages = (p.var for p in parameters)
    down, across = mb // mw, maximum(nb // nw, 1)
    sizes = [_Sizes(x, nw, across, ks) for x in chain.links]
    threads = maximum(down, 1) * across * device.warp
    shared = held_bytes(chain, mb, nb, ks) + ceil_div(nb * ks * 2 * stages, ALIGNMENT) * ALIGNMENT + 256
    first = chain.links[0].rows
    ahead = ceil_div(mb * ks, threads * 2) if not first.chunked else const(0)
    wanted = mw * nw // device.warp + mw // 4 + nw // 4 + ahead + 100
    registers = minimum(wanted, const(255))
    # Blocks of a multiprocessor.
    memory, cells = device.level("shared").bytes, device.registers_per_unit
    warps = const(cells // 4) // (registers * device.warp) * 4
    together = minimum(const(memory) // (shared + 1024), warps * device.warp // threads)
    packed = frozenset(i for i, x in enumerate(chain.links) if x.packed is not None)
    tasks = ceil_div(m, mb)
    rows = tasks * mb
    steps = _total([x.steps for x in sizes])
    products = _total([x.columns * x.depth for x in sizes])
    fragments = rows * _total([x.depth * x.passes for x in sizes]) * across + tasks * down * products
    area = mw * nw
    unit = "fp16.mma" if chain.dtype == "float16" else "bf16.mma"
    return Match(
        recipe=NAME,
        roles=roles_of_chain(chain),
        extents={"m": m, "n": max(widths), "k": max(x.depth for x in chain.links)},
        parameters=parameters,
        constraints=(
            divides(mw, mb, "warps share the rows of a block evenly"),
            divides(nw, nb, "warps share the columns of a block evenly"),
            Constraint(const(2), stages, "the ring needs two stages"),
            Constraint(ahead, const(64), "registers that a thread loads ahead"),
            Constraint(wanted, const(_MOST_REGISTERS), "registers, some of which a thread can do without"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=Work(
            flops=rows * products * 2,
            traffic={
                "dram": const(memory_bytes(staged)),
                "l2": rows * sizes[0].depth * 2 + tasks * products * 2 + beside(chain),
                "shared": (fragments + rows * sum(widths[:-1])) * 2,
            },
            efficiency=area * share(chain, device, unit, 75, together) // (area + 512) // (1 if first.chunked else 2),
            unit=unit,
            serial=steps * 12 // (stages + 1) + 10 * len(sizes) + 20,
        ),
        operands=operands_of_chain(chain, packed),
        tiles={"register": {"m": mw, "n": nw, "k": const(16)}, "shared": {"m": mb, "n": nb, "k": ks}},
        packings=Packings(chain),
        detail=chain,
    )


class _Sizes:
    """What a link's tiles come to, as formulas: columns of a block, walks over them, points summed over, steps."""

    def __init__(self, link: Link, n_warp: Expr, across: Expr, step: Expr) -> None:
        block = minimum(n_warp, ceil_div(const(link.width), across * 16) * 16) * across
        self.passes = ceil_div(const(link.width), block)
        self.columns = self.passes * block
        trips = ceil_div(const(link.depth), step)
        self.depth = trips * step
        self.steps = self.passes * trips


def _sizes(limit: int) -> tuple[int, ...]:
    """Block sizes up to 256, not much beyond the extent."""
    return tuple(x for x in powers(32, 256) if x < 2 * max(limit, 32))


def block_columns(link: Link, n_warp: int, across: int) -> int:
    """Columns that a block computes of a link in one walk over the reduction: no more than it has, in whole tiles."""
    return min(n_warp, -(-link.width // (across * 16)) * 16) * across


def held_tiles(chain: Chain, step: Expr) -> tuple[Expr, Expr]:
    """The most tiles of `step` columns that links with even and odd numbers read."""
    trips = [ceil_div(const(x.depth), step) for x in chain.links]
    return _most(trips[::2]), _most(trips[1::2])


def in_place(chain: Chain, block: int) -> bool:
    """Whether a link's result may replace its operand, as registers hold all of it."""
    return max(x.width for x in chain.links[:-1]) <= block


def held_bytes(chain: Chain, rows: Expr, block: Expr, step: Expr) -> Expr:
    """Bytes of what passes between the links, and of the first one's rows."""
    even, odd = held_tiles(chain, step)
    whole = const(max(x.width for x in chain.links[:-1])) <= block
    tiles = apply("select", whole, maximum(even, odd), even + odd)
    return ceil_div(tiles * rows * step * 2, ALIGNMENT) * ALIGNMENT + ALIGNMENT


def _total(formulas: Sequence[Expr]) -> Expr:
    total: Expr = const(0)
    for formula in formulas:
        total = total + formula
    return total


def _most(formulas: Sequence[Expr]) -> Expr:
    found: Expr = const(0)
    for formula in formulas:
        found = maximum(found, formula)
    return found


def share(chain: Chain, device: DeviceModel, unit: str, most: int, together: Expr) -> Expr:
    """Percent of the tensor cores' peak: what stands between products is other instructions.

    Args:
        most: percent where there is nothing but products.
        together: how many tiles of rows a multiprocessor works on; one may multiply while others do something else.
    """
    peak = device.peak.get(unit, device.peak["fma"])
    products = sum(2 * x.depth * x.width for x in chain.links) / peak
    passing = sum(x.width * (operations(*(s.expr for s in x.spec.stores)) + _PASSING) for x in chain.links)
    others = passing / (device.peak["fma"] / 2)
    slow, hidden = max(products, others), min(products, others)
    wide = maximum(together, 1)
    parts = [round(1000 * x / (slow + hidden)) for x in (products, slow, hidden)]
    return maximum(wide * (most * parts[0]) // (wide * parts[1] + parts[2]), 1)


def beside(chain: Chain) -> int:
    """Bytes that epilogues read and that are stored, for each point of the results."""
    total = 0
    for link in chain.links:
        mine = {x.name for x in link.roles.m}
        reads = link.spec.reads[link.spec.body_reads :]
        sizes = [dtypes.size_of(x.value.dtype) for x in reads if mine & variables(x.address)]
        sizes += [dtypes.size_of(s.value.dtype) for s in link.stores]
        total += chain.row_count * link.width * sum(sizes)
    return total


def roles_of_chain(chain: Chain) -> dict[str, tuple[str, ...]]:
    """The axes of each role, those of all links, after the links' numbers."""
    pairs = [(f"{i}.", x.roles) for i, x in enumerate(chain.links)]
    return {role: tuple(i + x.name for i, roles in pairs for x in getattr(roles, role)) for role in ("m", "n", "k")}


def operands_of_chain(chain: Chain, packed: Container[int]) -> tuple[Operand, ...]:
    """What the kernel moves: the first rows, every link's columns, what epilogues read, results.

    Args:
        packed: numbers of the links whose columns are stored with neighbouring columns side by side.
    """
    found: dict[tuple[str, bool], Operand] = {}
    for number, link in enumerate(chain.links):
        roles = {"m": link.roles.m, "n": link.roles.n, "k": link.roles.k}
        for slot, read in enumerate(link.spec.reads):
            if number and slot == link.rows.slot:
                continue
            names = variables(read.address, read.guard)
            own = tuple(role for role, axes in roles.items() if names & {x.name for x in axes})
            touched = math.prod(extent(x) for axes in roles.values() for x in axes if x.name in names)
            elements = min(touched, math.prod(read.value.static_shape()))
            outside = slot >= link.spec.body_reads
            along = "n" if number in packed and slot == link.columns.slot else ""
            run = link.width if along else 1
            size = dtypes.size_of(read.value.dtype)
            one = Operand(read.value.name, size, elements, own, along, int(bool(along)), run, outside)
            found.setdefault((read.value.name, outside), one)
        for store in link.stores:
            elements = chain.row_count * points(link.roles.n)
            size = dtypes.size_of(store.value.dtype)
            found[store.value.name, True] = Operand(store.value.name, size, elements, ("m", "n"), outside=True)
    return tuple(found.values())


@attrs.frozen
class Packings:
    """The columns that memory does not hold in whole chunks, stored as [tile][k][column of the tile]."""

    chain: Chain

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        found = []
        for link in self.chain.links:
            if link.packed is not None:
                block = block_columns(link, params["n.warp"], params["n.block"] // params["n.warp"])
                one = pack_operand(link.kernel, link.columns.slot, link.roles.n, link.roles.k, block, params["k.step"])
                found.append(attrs.evolve(one, slot=link.packed))
        return tuple(found)


RECIPE = Recipe(NAME, "cuda", match, priority=35, takes=StagedSpec)
