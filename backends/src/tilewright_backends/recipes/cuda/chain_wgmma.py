"""`cuda.chain_wgmma`: products of 16-bit factors after products, by `wgmma`, in one kernel (sm_90a)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Expr, const, maximum, minimum, select
from tilewright.recipes import Constraint, Match, Recipe, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.cuda.boxes import Boxes, boxes_of
from tilewright_backends.recipes.cuda.chain import beside, operands_of_chain, roles_of_chain, share
from tilewright_backends.recipes.cuda.flat_chain import Chain, Link, flat_chain
from tilewright_backends.recipes.cuda.wgmma_ring import LATENCY, MOST_SUMS, START_REGISTERS, STEP, steps_at_peak
from tilewright_backends.recipes.gpu.common import ceil_div, divides, parameter
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.gpu.tensor import HalfOperand
from tilewright_backends.recipes.rows import memory_bytes

NAME = "cuda.chain_wgmma"
_WIDEST = 256
"""Columns of one instruction."""


@attrs.frozen
class FetchedChain:
    """A chain whose operands can be fetched: the first rows as boxes, columns too or, where that is None, packed."""

    chain: Chain
    rows: Boxes
    columns: tuple[Boxes | None, ...]

    @property
    def packed(self) -> frozenset[int]:
        """Numbers of the links whose columns are stored in another order."""
        return frozenset(i for i, x in enumerate(self.columns) if x is None)


def fetched_chain(staged: StagedSpec) -> FetchedChain | None:
    """The stages as such a chain, or None when they are none, or what passes between two links is too wide."""
    chain = flat_chain(staged)
    if chain is None or max(x.width for x in chain.links[:-1]) > _WIDEST:
        return None
    first = chain.links[0]
    rows = _boxes(first, first.rows)
    columns = tuple(_boxes(x, x.columns) for x in chain.links)
    if rows is None or any(b is None and not x.columns.constant for x, b in zip(chain.links, columns, strict=True)):
        return None
    return FetchedChain(chain, rows, columns)


def _boxes(link: Link, operand: HalfOperand) -> Boxes | None:
    """The operand as boxes of several rows, or None."""
    found = boxes_of(link.spec, link.roles, operand)
    return found if found is not None and len(found.dimensions) > 1 else None


def block_columns(link: Link, block: int) -> int:
    """Columns that a block computes of a link in one walk over the reduction: whole boxes."""
    return min(block, -(-link.width // STEP) * STEP)


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as a chain of products, or None when they are none."""
    if not (device.has("wgmma") and device.has("tma")):
        return None
    found = fetched_chain(staged)
    if found is None:
        return None
    chain = found.chain
    m, widths = chain.row_count, [x.width for x in chain.links]
    inner = max(widths[:-1])
    parameters = (
        parameter("m.block", (64, 128, 256), align=64, role="m", level="shared"),
        parameter("n.block", (64, 128, 192, 256), align=64, role="n", level="shared"),
        parameter("m.group", (64, 128), align=64, role="m", level="register"),
        parameter("stages", (2, 3, 4, 6)),
    )
    mb, nb, group, stages = (p.var for p in parameters)
    groups = maximum(mb // group, 1)
    threads = (groups + 1) * 128
    registers = select(groups < const(2), const(START_REGISTERS[1]), const(START_REGISTERS[2]))
    trips = [-(-x.depth // STEP) for x in chain.links]
    held = trips[0] + max(trips[1:])
    shared = (mb * held + minimum(nb, -(-max(widths) // STEP) * STEP) * stages) * STEP * 2 + 3072
    tiles = ceil_div(m, mb)
    tasks = minimum(tiles, const(device.units))
    rounds = ceil_div(tiles, device.units)
    steps: Expr = const(0)
    products: Expr = const(0)
    for link, count in zip(chain.links, trips, strict=True):
        block = minimum(nb, -(-link.width // STEP) * STEP)
        walks = ceil_div(const(link.width), block)
        steps = steps + walks * count
        products = products + block * walks * (count * STEP)
    half = "fp16" if chain.dtype == "float16" else "bf16"
    unit = f"{half}.tensor"
    waiting = maximum(const(8 * LATENCY) // stages - steps_at_peak(device, unit, mb, nb), const(0))
    return Match(
        recipe=NAME,
        roles=roles_of_chain(chain),
        extents={"m": m, "n": max(widths), "k": max(x.depth for x in chain.links)},
        parameters=parameters,
        constraints=(
            divides(group, mb, "warpgroups share the rows of a block evenly"),
            Constraint(const(inner), nb, "registers hold what is passed on"),
            Constraint(nb, const(_WIDEST), "columns of one instruction"),
            Constraint(mb, const(256), "rows of a box"),
            Constraint(group, const(128), "rows of a warpgroup"),
            Constraint(groups, const(2), "warpgroups that multiply"),
            Constraint(group * nb // 128, const(MOST_SUMS), "sums of a thread"),
            Constraint(const(2), stages, "the ring needs two stages"),
            Constraint(stages, const(16), "stages of the ring"),
            Constraint(shared, const(device.shared_per_block), "shared memory of a block"),
        ),
        usage=Usage(tasks, threads, registers, shared, 2 * stages),
        work=Work(
            # Every block takes as many tiles as the busiest one.
            flops=tasks * rounds * mb * products * 2,
            traffic={
                "dram": const(memory_bytes(staged)),
                "l2": tiles * (mb * (trips[0] * STEP) + products) * 2 + beside(chain),
            },
            efficiency=mb * nb * share(chain, device, unit, 85, groups) // (mb * nb + 4096),
            unit=unit,
            serial=rounds * (steps * waiting // 8 + 6 * len(trips) + 20) + steps * 4 // stages + 30,
        ),
        operands=operands_of_chain(chain, found.packed),
        tiles={"register": {"m": group, "n": nb, "k": const(16)}, "shared": {"m": mb, "n": nb, "k": const(STEP)}},
        packings=Packings(found),
        detail=found,
    )


@attrs.frozen
class Packings:
    """The columns that cannot be fetched as they lie, stored as [tile][k][column of the tile]."""

    detail: FetchedChain

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        found = []
        for number in sorted(self.detail.packed):
            link = self.detail.chain.links[number]
            block = block_columns(link, params["n.block"])
            one = pack_operand(link.kernel, link.columns.slot, link.roles.n, link.roles.k, block, STEP)
            found.append(attrs.evolve(one, slot=link.first_slot + link.columns.slot))
        return tuple(found)


# Warpgroups hand over registers, which are those of the whole kernel, and tensor maps are parameters.
RECIPE = Recipe(NAME, "cuda", match, priority=40, takes=StagedSpec, embeddable=False)
