"""Stages over common rows with flat addresses, and rows and columns merged where memory does not tell them apart."""

from __future__ import annotations

import math

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Const, const, loads, variables
from tilewright.ir.ops import Axis, Value
from tilewright.recipes import Operand
from tilewright.views.rows import Kind, RowSpec, rows_of
from tilewright.views.staged import StagedSpec
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, coefficient, flatten, merge_axes


@attrs.frozen
class FlatStage:
    """A stage over common axes.

    Args:
        inner: reads of what earlier stages made, by slot. Their addresses are of no use.
    """

    kind: Kind
    spec: FlatSpec
    inner: dict[int, Value] = attrs.field(eq=False)


@attrs.frozen
class Rows:
    """What `cuda.rows` and `cpu.rows` emit.

    Args:
        rows, columns: the common axes, outermost first.
        kept: values that pass from stage to stage, with what they vary with.
        outputs: values that are stored in memory.
        again: reads of memory, the same in several stages, that are worth keeping: one element per row and column.
        along: whether neighbouring columns lie together in memory, so that threads go along them.
    """

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    stages: tuple[FlatStage, ...]
    kept: tuple[tuple[Value, Kind], ...]
    outputs: tuple[Value, ...]
    again: tuple[FlatAccess, ...]
    along: bool

    @property
    def row_count(self) -> int:
        return points(*self.rows)

    @property
    def column_count(self) -> int:
        return points(*self.columns)

    @property
    def held(self) -> int:
        """Elements per row and column that stay on chip."""
        return len(self.again) + sum(kind == "map" for _, kind in self.kept)


def flat_rows(staged: StagedSpec) -> Rows | None:
    """The stages as rows, or None when they are none."""
    found = rows_of(staged)
    if found is None:
        return None
    specs = _merged(found)
    axes = specs[0].axes
    columns = tuple(x for x in axes if x.kind == "reduce")
    rows = tuple(x for x in axes if x.kind == "spatial")
    kept = {v for v, _ in found.kept}
    stages = tuple(
        FlatStage(stage.kind, spec, {i: x.value for i, x in enumerate(spec.reads) if x.value in kept})
        for stage, spec in zip(found.stages, specs, strict=True)
    )
    again = _again(stages, columns)
    return Rows(rows, columns, stages, found.kept, staged.outputs, again, _along(stages, columns))


def _merged(found: RowSpec) -> list[FlatSpec]:
    """The stages' flat specifications over the same, merged axes; columns are of kind "reduce" in all of them."""
    common = (*found.rows, *found.columns)
    kept = {v for v, _ in found.kept}
    flat = [flatten(attrs.evolve(x.spec, axes=common)) for x in found.stages]
    flat = [attrs.evolve(x, reads=tuple(_nowhere(r) if r.value in kept else r for r in x.reads)) for x in flat]
    # What only passes on is written nowhere.
    outside = set(found.staged.outputs)
    stores = [tuple(s if s.value in outside else attrs.evolve(s, address=const(0)) for s in x.stores) for x in flat]
    flat = [attrs.evolve(x, stores=s) for x, s in zip(flat, stores, strict=True)]
    # All stages together as one: what merges there merges in each.
    together = attrs.evolve(
        flat[0],
        axes=common,
        reads=tuple(r for x in flat for r in x.reads),
        stores=tuple(s for x in flat for s in x.stores),
        body=tuple(e for x in flat for e in x.body),
        origin={x.name: (x,) for x in common},
    )
    together = merge_axes(together)
    reads, writes = list(together.reads), list(together.stores)
    result = []
    for x in flat:
        mine, reads = reads[: len(x.reads)], reads[len(x.reads) :]
        own, writes = writes[: len(x.stores)], writes[len(x.stores) :]
        result.append(
            attrs.evolve(x, axes=together.axes, reads=tuple(mine), stores=tuple(own), origin=together.origin)
        )
    return result


def _nowhere(access: FlatAccess) -> FlatAccess:
    return attrs.evolve(access, address=const(0))


def _again(stages: tuple[FlatStage, ...], columns: tuple[Axis, ...]) -> tuple[FlatAccess, ...]:
    """Reads of memory that several stages share, of plain addresses that vary with the columns."""
    names = {x.name for x in columns}
    seen: dict[FlatAccess, int] = {}
    for stage in stages:
        for slot, access in enumerate(stage.spec.reads):
            if slot not in stage.inner and not loads(access.address, access.guard):
                seen[access] = seen.get(access, 0) + bool(names & variables(access.address))
    return tuple(x for x, times in seen.items() if times > 1)


def _along(stages: tuple[FlatStage, ...], columns: tuple[Axis, ...]) -> bool:
    """Whether most of the accesses step by one from column to column."""
    if not columns:
        return False
    addresses = [r.address for x in stages for i, r in enumerate(x.spec.reads) if i not in x.inner]
    addresses += [s.address for x in stages for s in x.spec.stores]
    strides = [coefficient(x, columns[-1].name) for x in addresses if columns[-1].name in variables(x)]
    return sum(x == 1 for x in strides) * 2 >= len(strides)


def memory_bytes(staged: StagedSpec) -> int:
    """Bytes of what is read from outside and of the outputs, each counted once."""
    values = {*staged.inputs, *staged.outputs}
    return sum(math.prod(v.static_shape()) * dtypes.size_of(v.dtype) for v in values)


def operands_of_rows(staged: StagedSpec, rows: Rows) -> tuple[Operand, ...]:
    """What the kernel moves: every input and output once."""
    names = {"rows": {x.name for x in rows.rows}, "columns": {x.name for x in rows.columns}}
    used: dict[Value, set[str]] = {}
    for stage in rows.stages:
        for slot, access in enumerate(stage.spec.reads):
            if slot not in stage.inner:
                used.setdefault(access.value, set()).update(variables(access.address))
        for store in stage.spec.stores:
            if store.value in rows.outputs:
                used.setdefault(store.value, set()).update(variables(store.address))
    return tuple(
        Operand(
            value.name,
            dtypes.size_of(value.dtype),
            math.prod(value.static_shape()),
            tuple(role for role, mine in names.items() if mine & axes),
            along="columns" if rows.along and names["columns"] & axes else "",
            stride=1 if rows.along else 0,
            outside=True,
        )
        for value, axes in used.items()
    )


def points(*axes: Axis) -> int:
    """Number of points of fused axes."""
    return math.prod(int(x.extent.value) for x in axes if isinstance(x.extent, Const))
