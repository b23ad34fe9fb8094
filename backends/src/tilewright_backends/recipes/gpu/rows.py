"""`rows`: softmax, normalisations and the like; a team of threads takes a row through all stages in registers."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const, maximum, select
from tilewright.recipes import Constraint, Match, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    divides,
    on_gpus,
    operations,
    parameter,
    powers,
)
from tilewright_backends.recipes.gpu.slices import RowSlice, row_slices, slices
from tilewright_backends.recipes.rows import Rows, flat_rows, memory_bytes, operands_of_rows

NAME = "rows"
_WIDEST = 16
"""Bytes of a vector."""
_MOST_ELEMENTS = 64
"""Columns that a thread takes; they are written out one by one."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as rows with a team of threads each, or None when they share no rows."""
    rows = flat_rows(staged)
    if rows is None or not _shareable(rows):
        return None
    columns, count = rows.column_count, rows.row_count
    widest = min(device.max_threads_per_block, 1 << max(columns - 1, 0).bit_length()) if rows.along else 1
    vectors = [v for v in powers(1, 8) if rows.along and _fits(rows, v)] or [1]
    parameters = (
        parameter("rows.block", powers(1, 256), role="rows", level="block"),
        parameter("lanes", powers(1, widest)),
        parameter("vector", vectors),
        # 1: what several stages read is read once and held. 2: again in every stage, where only numbers are kept.
        parameter("reads", (1,) if any(kind == "map" for _, kind in rows.kept) else (1, 2)),
    )
    block, lanes, vector, reads = (p.var for p in parameters)
    threads = block * lanes
    elements = ceil_div(columns, lanes * vector) * vector
    size = max((dtypes.size_of(v.dtype) for v in staged.inputs), default=4)
    inputs = max(len(x.spec.reads) - len(x.inner) for x in rows.stages)
    registers = 32 + select(reads < const(2), elements * max(rows.held, 1), vector) * max(size, 4) // 4
    registers = registers + vector * inputs + 2 * max((len(x.spec.body) for x in rows.stages), default=0)
    several = select(const(device.warp) < lanes, lanes // device.warp, const(0))
    combiners = [x.spec.combiner for x in rows.stages if x.spec.combiner is not None]
    states = [d for x in combiners for d in x.dtypes]
    shared = block * several * sum(max(dtypes.size_of(d), 4) for d in states) + 16 * len(states)
    tasks = ceil_div(count, block)
    needed = 1 << max(count - 1, 0).bit_length()
    roles = {"rows": tuple(x.name for x in rows.rows), "columns": tuple(x.name for x in rows.columns)}
    reductions = sum(x.kind == "reduce" for x in rows.stages)
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=roles,
        extents={"rows": count, "columns": columns},
        parameters=parameters,
        constraints=(
            divides(lanes, 1024, "lanes are a power of two"),
            divides(vector, max(vectors), "vectors of a power of two make up the columns"),
            Constraint(reads, const(2), "what is read is held or not"),
            Constraint(select(reads < const(2), elements, const(0)), const(_MOST_ELEMENTS), "columns of a thread"),
            Constraint(block, maximum(const(needed), const(device.warp) // lanes), "rows that there are, or a warp"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared),
        work=Work(
            flops=tasks * threads * (elements * _per_point(rows) + elements // vector * _moved(rows) + 10 * reductions),
            traffic={"dram": const(memory_bytes(staged)), "l2": _read(staged, rows, reads)},
            efficiency=const(25),
            serial=const(len(rows.stages) * 2) + select(const(device.warp) < lanes, const(8 * reductions), const(0)),
        ),
        operands=operands_of_rows(staged, rows),
        tiles={"block": {"rows": block, "columns": const(columns)}},
        slices=slices(slices_of(rows, staged), count, "rows.block"),
        detail=rows,
    )


def slices_of(rows: Rows, staged: StagedSpec) -> tuple[RowSlice, ...]:
    """The reads of constants that tasks share out by rows."""
    reads = [None if i in x.inner else r for x in rows.stages for i, r in enumerate(x.spec.reads)]
    return row_slices(reads, rows.rows, rows.stages[0].spec.bounds(), staged.constants)


def _read(staged: StagedSpec, rows: Rows, reads: Expr) -> Expr:
    """Bytes through the second-level cache: what several stages read counts again where it is not held."""
    columns = rows.row_count * rows.column_count
    extra = 0
    for access in rows.again:
        times = sum(access in stage.spec.reads for stage in rows.stages) - 1
        extra += times * columns * dtypes.size_of(access.value.dtype)
    return const(memory_bytes(staged)) + select(reads < const(2), const(0), const(extra))


def _shareable(rows: Rows) -> bool:
    """Whether several threads can share every reduction, or need not."""
    combiners = [x.spec.combiner for x in rows.stages if x.spec.combiner is not None]
    return not rows.along or all(x.associative and x.commutative for x in combiners)


def _fits(rows: Rows, vector: int) -> bool:
    """Whether vectors of the widest element are moved at once and make up the innermost columns."""
    values = [r.value for x in rows.stages for i, r in enumerate(x.spec.reads) if i not in x.inner]
    widest = max((dtypes.size_of(v.dtype) for v in (*values, *rows.outputs)), default=4)
    return vector * widest <= _WIDEST and all(x.extent % vector == const(0) for x in rows.columns[-1:])


def _per_point(rows: Rows) -> int:
    """Operations of all stages at one column."""
    total = 0
    for stage in rows.stages:
        if stage.kind != "row":
            spec = stage.spec
            stored = () if stage.kind == "reduce" else tuple(s.expr for s in spec.stores)
            combining = operations(*spec.combiner.combine) if spec.combiner is not None else 0
            total += operations(*spec.body, *stored) + combining
    return total


def _moved(rows: Rows) -> int:
    """Operations to move what all stages read and write in memory, per vector."""
    reads = sum(i not in x.inner for x in rows.stages for i in range(len(x.spec.reads)))
    writes = sum(s.value in rows.outputs for x in rows.stages for s in x.spec.stores)
    return 3 * (reads + writes)


CUDA, ROCM = on_gpus(NAME, match, 0, takes=StagedSpec)
