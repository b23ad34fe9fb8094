"""`cpu.rows`: softmax, normalisations and the like; a task takes its rows one by one through all stages in cache.

Lanes run along the columns where they lie together in memory, otherwise along the rows, a vector of which then goes
through the stages side by side. Stages that need nothing of a row but what is known before run in one pass over it.
"""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const
from tilewright.ir.ops import Axis, Value
from tilewright.recipes import Match, Parameter, Recipe, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.lower.flat import coefficient
from tilewright_backends.recipes.cpu.common import ceil_div, full_lanes, lanes_for, load_cost, operations, sizes
from tilewright_backends.recipes.rows import FlatStage, Rows, flat_rows, memory_bytes, operands_of_rows, points

NAME = "cpu.rows"
_MOST_BYTES = 256 << 10
"""Bytes of rows that a task keeps on its stack."""

Pass = tuple[FlatStage, ...]


@attrs.frozen
class RowLoops:
    """Rows as loops: strips of rows, passes over the columns of each.

    Args:
        lanes: neighbours side by side.
        passes: stages that run together, point by point; one of kind "row" stands alone.
        buffered: values per row and column that a later pass reads.
    """

    rows: Rows
    lanes: int
    passes: tuple[Pass, ...]
    buffered: tuple[Value, ...]

    @property
    def lane_axis(self) -> str:
        """The axis that lanes run along, "" for none."""
        axes = self.rows.columns if self.rows.along else self.rows.rows
        return axes[-1].name if axes and self.lanes > 1 else ""

    @property
    def width(self) -> int:
        """Neighbouring columns in a vector."""
        return self.lanes if self.rows.along else 1

    @property
    def strip(self) -> int:
        """Rows that are taken at a time."""
        return 1 if self.rows.along else self.lanes

    @property
    def strips(self) -> int:
        """How many there are; the last rows of each outer one can be fewer."""
        if not self.lane_axis or self.rows.along:
            return self.rows.row_count
        return self.rows.row_count // points(self.rows.rows[-1]) * -(-points(self.rows.rows[-1]) // self.lanes)

    @property
    def line(self) -> int:
        """Places of the innermost columns of a strip in a buffer, in whole vectors."""
        inner = points(self.rows.columns[-1]) if self.rows.columns else 1
        return -(-inner // self.width) * self.width * self.strip

    @property
    def places(self) -> int:
        """Places of all columns of a strip."""
        return self.rows.column_count // max(points(*self.rows.columns[-1:]), 1) * self.line

    @property
    def buffer_bytes(self) -> int:
        """Bytes of what a strip keeps between passes."""
        return self.places * sum(dtypes.size_of(x.dtype) for x in self.buffered)


def row_loops(staged: StagedSpec, device: DeviceModel) -> RowLoops | None:
    """The stages as loops over rows, or None when they share no rows or too much of one is kept."""
    rows = flat_rows(staged)
    if rows is None:
        return None
    full = min(full_lanes(x.spec, device) for x in rows.stages)
    inner = rows.columns[-1:] if rows.along else rows.rows[-1:]
    lanes = lanes_for(points(*inner), full) if rows.along and _joinable(rows) else 1
    if not rows.along and inner and _beside(rows, inner[0]):
        lanes = lanes_for(points(*inner), full)
    loops = loops_of(rows, lanes)
    share = min(_MOST_BYTES, device.level("l2").bytes // 2)
    return loops if loops.buffer_bytes <= share else None


def loops_of(rows: Rows, lanes: int) -> RowLoops:
    """The loops for a number of lanes that `row_loops` chose."""
    passes = _passes(rows.stages)
    return RowLoops(rows, lanes, passes, _buffered(rows, passes))


def _joinable(rows: Rows) -> bool:
    """Whether lanes and vectors side by side can share every reduction."""
    combiners = [x.spec.combiner for x in rows.stages if x.spec.combiner is not None]
    return all(x.associative and x.commutative for x in combiners)


def _beside(rows: Rows, axis: Axis) -> bool:
    """Whether most of the accesses step by one from row to row, or not at all."""
    strides = _strides(rows, axis.name)
    return sum(x in (0, 1) for x in strides) * 2 >= len(strides)


def _strides(rows: Rows, axis: str) -> list[int | None]:
    """The strides along an axis of all accesses to memory."""
    reads = [r.address for x in rows.stages for i, r in enumerate(x.spec.reads) if i not in x.inner]
    stores = [s.address for x in rows.stages for s in x.spec.stores if s.value in rows.outputs]
    return [coefficient(x, axis) for x in (*reads, *stores)]


def _passes(stages: tuple[FlatStage, ...]) -> tuple[Pass, ...]:
    """Stages in order, cut where one needs a number that the pass has only at its end."""
    found: list[list[FlatStage]] = []
    pending: set[Value] = set()
    for stage in stages:
        alone = stage.kind == "row" or not found or found[-1][0].kind == "row"
        if alone or pending & set(stage.inner.values()):
            found.append([])
            pending = set()
        found[-1].append(stage)
        if stage.kind == "reduce":
            pending |= {x.value for x in stage.spec.stores}
    return tuple(map(tuple, found))


def _buffered(rows: Rows, passes: tuple[Pass, ...]) -> tuple[Value, ...]:
    made = {s.value: i for i, stages in enumerate(passes) for stage in stages for s in stage.spec.stores}
    read = {(v, i) for i, stages in enumerate(passes) for stage in stages for v in stage.inner.values()}
    later = {v for v, i in read if i > made[v]}
    return tuple(v for v, kind in rows.kept if kind == "map" and v in later)


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as strips of rows: lanes, vectors side by side, and a block of rows per task."""
    loops = row_loops(staged, device)
    if loops is None:
        return None
    rows, lanes = loops.rows, loops.lanes
    inner = points(*rows.columns[-1:])
    unrolls = tuple(u for u in (1, 2, 4) if u == 1 or (_joinable(rows) and u * loops.width <= inner))
    blocks = sizes(loops.strips * loops.strip, loops.strip)
    parameters = (
        Parameter("lanes", (lanes,)),
        Parameter("unroll", unrolls),
        Parameter("rows.block", blocks, align=loops.strip, role="rows", level="block"),
    )
    unroll, block = parameters[1].var, parameters[2].var
    tasks = ceil_div(loops.strips * loops.strip, block)
    vectorised = lanes > 1
    return Match(
        recipe=NAME,
        roles={"rows": tuple(x.name for x in rows.rows), "columns": tuple(x.name for x in rows.columns)},
        extents={"rows": rows.row_count, "columns": rows.column_count},
        parameters=parameters,
        constraints=(),
        usage=Usage(tasks=tasks, shared_bytes=const(loops.buffer_bytes)),
        work=Work(
            flops=const(loops.strips * loops.places * _per_point(loops)),
            traffic=_traffic(loops, staged, device),
            efficiency=const(25 if vectorised else 5) + unroll * (2 if vectorised else 0),
            serial=tasks * 2,
        ),
        operands=operands_of_rows(staged, rows),
        tiles={"block": {"rows": block, "columns": const(rows.column_count)}},
        detail=loops,
    )


def _per_point(loops: RowLoops) -> int:
    """Operations of all stages at one place of a buffer."""
    total = 0
    for stage in loops.rows.stages:
        spec = stage.spec
        if stage.kind == "row":
            continue
        stored = () if stage.kind == "reduce" else tuple(s.expr for s in spec.stores)
        total += operations(*spec.body, *stored) + (2 * len(spec.body) if stage.kind == "reduce" else 0)
        for slot, read in enumerate(spec.reads):
            stride = 1 if slot in stage.inner or not loops.lane_axis else coefficient(read.address, loops.lane_axis)
            total += load_cost(stride)
    return total


def _traffic(loops: RowLoops, staged: StagedSpec, device: DeviceModel) -> dict[str, Expr]:
    """Bytes from memory, and those that later passes find in the nearest cache that holds a strip."""
    rows = loops.rows
    again = sum(dtypes.size_of(x.value.dtype) for x in rows.again)
    kept = sum(dtypes.size_of(x.dtype) for x in loops.buffered)
    strip = loops.places * (again + kept)
    home = next((x for x in ("l1", "l2", "l3") if strip <= device.level(x).bytes * 3 // 4), "dram")
    moved = loops.strips * loops.places * (again * (len(loops.passes) - 1) + 2 * kept)
    traffic = {"dram": memory_bytes(staged)}
    traffic[home] = traffic.get(home, 0) + moved
    return {name: const(total) for name, total in traffic.items()}


RECIPE = Recipe(NAME, "cpu", match, priority=0, takes=StagedSpec)
