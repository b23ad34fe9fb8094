"""RowSpec: stages that share rows. What passes between them stays with its row, so rows can be computed one by one.

Softmax and the normalisations are of this kind: every stage is a reduction along the columns, a number per row, or a
value per row and column, and reads of other stages what they made at the same row (and column). It is Welder's
propagation (OSDI'23, section 3) for output tiles of one row: each stage's tile is that row, and nothing is computed
twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from tilewright.ir.bounds import simplify
from tilewright.ir.expr import Const, Expr, Var, const, substitute
from tilewright.ir.ops import Access, Axis, Value
from tilewright.views.kernel import KernelSpec, Store
from tilewright.views.maps import axis_bounds
from tilewright.views.staged import StagedSpec

Kind = Literal["reduce", "row", "map"]
"""A reduction along the columns, one number per row, or one per row and column."""


@attrs.frozen(cache_hash=True)
class RowStage:
    """A stage over the axes of the rows and, unless it is of kind "row", those of the columns."""

    kind: Kind
    spec: KernelSpec


@attrs.frozen(cache_hash=True)
class RowSpec:
    """Stages over common rows and columns.

    Args:
        rows: the axes of the rows, outermost first, spatial.
        columns: the axes of the columns, outermost first; of kind "reduce".
        stages: in execution order, over these axes.
        kept: values that pass from stage to stage, with the axes that they vary with ("row" or "map").
        staged: what it is a view of.
    """

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    stages: tuple[RowStage, ...]
    kept: tuple[tuple[Value, Kind], ...]
    staged: StagedSpec


def rows_of(staged: StagedSpec) -> RowSpec | None:
    """The stages as rows, or None when they do not share any, or something passes between different rows."""
    stages = [_without_single_points(x) for x in staged.stages]
    anchor = next((i for i, x in enumerate(stages) if x.combiner is not None), None)
    if anchor is None or staged.symbols or any(_merges(x) for x in stages):
        return None
    rows = tuple(Axis(f"row{i}", x.extent) for i, x in enumerate(stages[anchor].spatial))
    columns = tuple(Axis(f"col{i}", x.extent, "reduce") for i, x in enumerate(stages[anchor].reduce))
    first = zip(stages[anchor].axes, (*rows, *columns), strict=True)
    known: dict[int, dict[str, str]] = {anchor: {own.name: common.name for own, common in first}}
    common = {x.name: x for x in (*rows, *columns)}
    while len(known) < len(stages):
        mappings = {i: m for i in range(len(stages)) if i not in known and (m := _linked(i, stages, known)) is not None}
        if not mappings:
            return None
        number, mapping = next(((i, m) for i, m in mappings.items() if m), next(iter(mappings.items())))
        completed = _completed(stages[number], mapping, rows, columns)
        if completed is None:
            return None
        known[number] = completed
    named = [_renamed(x, known[i], common) for i, x in enumerate(stages)]
    if any(x is None for x in named):
        return None
    result = [x for x in named if x is not None]
    kinds: dict[Value, Kind] = {}
    for stage in result:
        kind: Kind = "map" if stage.kind == "map" else "row"
        kinds |= {s.write.value: kind for s in stage.spec.stores}
    if not _same_place(result, kinds, staged):
        return None
    kept = tuple((v, kinds[v]) for v in staged.kept)
    return RowSpec(rows, columns, tuple(result), kept, staged)


def _merges(spec: KernelSpec) -> bool:
    """Whether a stage scatters or writes under a guard, so that it does not make whole values."""
    return any(s.write.base is not None or s.write.update is not None or s.write.guard is not None for s in spec.stores)


def _without_single_points(spec: KernelSpec) -> KernelSpec:
    """The specification without its axes of one point."""
    gone: dict[str, Expr] = {x.name: const(0) for x in spec.axes if x.extent == const(1)}
    axes = tuple(x for x in spec.axes if x.name not in gone)
    return _substituted(spec, gone, axes)


def _substituted(spec: KernelSpec, at: Mapping[str, Expr], axes: Sequence[Axis]) -> KernelSpec:
    """The specification with other expressions, over `axes`, for its axes."""
    bounds = axis_bounds(axes, spec.symbol_bounds)

    def point(expr: Expr) -> Expr:
        return simplify(substitute(expr, at), bounds)

    def maybe(expr: Expr | None) -> Expr | None:
        return None if expr is None else point(expr)

    reads = tuple(Access(x.value, tuple(map(point, x.index)), maybe(x.guard), x.fill) for x in spec.reads)
    stores = tuple(
        Store(attrs.evolve(s.write, index=tuple(map(point, s.write.index)), guard=maybe(s.write.guard)), point(s.expr))
        for s in spec.stores
    )
    return attrs.evolve(spec, axes=tuple(axes), reads=reads, stores=stores, body=tuple(map(point, spec.body)))


def _linked(
    number: int, stages: Sequence[KernelSpec], known: Mapping[int, Mapping[str, str]]
) -> dict[str, str] | None:
    """The common names of axes of a stage, as far as what passes between it and known stages tells.

    Numbers of the only row tell of no axis. None where nothing passes.
    """
    found: dict[str, str] = {}
    passes = False
    for other, names in known.items():
        for a, b, flip in ((stages[other], stages[number], False), (stages[number], stages[other], True)):
            passes |= bool(set(a.outputs) & set(b.inputs))
            for written, read in _passing(a, b):
                theirs, own = (read, written) if flip else (written, read)
                if isinstance(theirs, Var) and isinstance(own, Var):
                    found.setdefault(own.name, names[theirs.name])
    return found if passes else None


def _passing(maker: KernelSpec, reader: KernelSpec) -> list[tuple[Expr, Expr]]:
    """Pairs of indices, dimension by dimension, of what `maker` writes and `reader` reads."""
    written = {s.write.value: s.write.index for s in maker.stores}
    return [
        pair
        for access in reader.reads
        if access.value in written
        for pair in zip(written[access.value], access.index, strict=True)
    ]


def _completed(
    spec: KernelSpec, mapping: Mapping[str, str], rows: Sequence[Axis], columns: Sequence[Axis]
) -> dict[str, str] | None:
    """All axes' common names: those that nothing tells take the columns (or rows) that are left, in order."""
    result = dict(mapping)
    left = [x for x in (*rows, *columns) if x.name not in result.values()]
    for axis in spec.axes:
        if axis.name in result:
            continue
        wanted = [x for x in left if x.extent == axis.extent]
        if axis.kind == "reduce":
            wanted = [x for x in wanted if x.kind == "reduce"]
        if not wanted:
            return None
        result[axis.name] = wanted[0].name
        left.remove(wanted[0])
    return result if len(set(result.values())) == len(result) else None


def _renamed(spec: KernelSpec, names: Mapping[str, str], common: Mapping[str, Axis]) -> RowStage | None:
    """The stage over the common axes, or None when its own are not the rows, with or without the columns."""
    if any(common[names[x.name]].extent != x.extent for x in spec.axes):
        return None
    rows = {x.name for x in common.values() if x.kind == "spatial"}
    columns = set(common) - rows
    spatial, reduced = ({names[x.name] for x in axes} for axes in (spec.spatial, spec.reduce))
    kind: Kind
    if spec.combiner is not None:
        if spatial != rows or reduced != columns:
            return None
        kind = "reduce"
    elif spatial == rows:
        kind = "row"
    elif spatial == rows | columns:
        kind = "map"
    else:
        return None
    present = rows | (columns if kind != "row" else set())
    axes = tuple(
        common[x] if kind == "reduce" else attrs.evolve(common[x], kind="spatial") for x in common if x in present
    )
    return RowStage(kind, _substituted(spec, {own: Var(name) for own, name in names.items()}, axes))


def _same_place(stages: Sequence[RowStage], kinds: Mapping[Value, Kind], staged: StagedSpec) -> bool:
    """Whether what passes is read, unguarded, at the point where it was written."""
    written = {s.write.value: s.write.index for stage in stages for s in stage.spec.stores}
    for stage in stages:
        for access in stage.spec.reads:
            if access.value not in staged.kept:
                continue
            if access.guard is not None or access.index != written[access.value]:
                return False
            if stage.kind == "row" and kinds[access.value] == "map":
                return False
    return all(not isinstance(x, Const) or x.value == 0 for index in written.values() for x in index)
