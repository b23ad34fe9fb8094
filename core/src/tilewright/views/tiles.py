"""TileSpec: the tile of every stage that a tile of the last stage's results needs (Welder, OSDI 2023, section 3.1).

A task computes a box of the last stage's spatial axes. Going backwards through the index of every read, each value
that passes on gets the box that is needed of it, with the halo of windows; a dimension whose index is no sum of axes is
needed whole. Where boxes of several readers differ by more than a shift, the dimension is taken whole too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.bounds import affine, simplify
from tilewright.ir.expr import Expr, Var, const, maximum, minimum, variables
from tilewright.ir.ops import Access, Axis, Value
from tilewright.views.kernel import KernelSpec
from tilewright.views.staged import StagedSpec


@attrs.frozen
class Span:
    """Where a box lies along a dimension or axis.

    Args:
        steps: how far the start moves with the start of each axis of the last stage.
        first: its start where all of these start at 0; it may be negative, and the box may reach over the end.
        size: points, over the variables that `TileSpec.sizes` names.
        whole: whether the box is all of the dimension, from 0 on, for every size.
    """

    steps: tuple[tuple[str, int], ...]
    first: int
    size: Expr
    whole: bool

    def start(self, origins: Mapping[str, Expr]) -> Expr:
        """The first point, given the first point along each axis of the last stage."""
        total: Expr = const(self.first)
        for axis, factor in self.steps:
            total = total + origins[axis] * factor
        return total


Box = tuple[Span, ...]


@attrs.frozen
class TileStage:
    """A stage.

    Args:
        domain: the span of each spatial axis.
    """

    spec: KernelSpec
    domain: Mapping[str, Span] = attrs.field(eq=False)


@attrs.frozen
class TileSpec:
    """Stages over tiles.

    Args:
        axes: the last stage's spatial axes of more than one point, which a task takes a box of.
        stages: in execution order.
        boxes: of each value that passes on.
        stored: of each value that passes on and is a result too, the axes along which tasks make the same box: those
            at the start of all of them store theirs. Boxes of others are parts of the value.
    """

    staged: StagedSpec
    axes: tuple[Axis, ...]
    stages: tuple[TileStage, ...]
    boxes: Mapping[Value, Box] = attrs.field(eq=False)
    stored: Mapping[Value, tuple[str, ...]] = attrs.field(eq=False)

    @staticmethod
    def size(axis: Axis) -> Var:
        """The variable of an axis' tile size in all sizes."""
        return Var(f"tile.{axis.name}")


def whole(extent: Expr) -> Span:
    """All of a dimension."""
    return Span((), 0, extent, True)


def tiles_of(staged: StagedSpec, sizes: Mapping[str, int] | None = None) -> TileSpec | None:
    """The stages over tiles, or None when they are no chain towards one last stage.

    That one stores results, and others may if no part of these is missing or made by tasks that need other parts.

    Args:
        sizes: the tile's points along each axis of the last stage, by the axis' name; otherwise they are variables.
    """
    *_, last = staged.stages
    kept = set(staged.kept)
    if staged.symbols or any(_scatters(x) for x in staged.stages) or kept & set(last.outputs):
        return None
    if not set(last.outputs) <= set(staged.outputs) <= {*last.outputs, *kept}:
        return None
    axes = tuple(x for x in last.spatial if x.extent != const(1))
    domains: dict[str, dict[str, Span]] = {last.name: {x.name: _tile(x, sizes) for x in last.spatial}}
    boxes: dict[Value, Box] = {}
    for stage in reversed(staged.stages):
        if stage is not last:
            domain = _domain(stage, boxes)
            if domain is None:
                return None
            domains[stage.name] = domain
        for access in stage.reads:
            if access.value in staged.kept:
                found = box_of(access, stage, domains[stage.name])
                before = boxes.get(access.value)
                boxes[access.value] = found if before is None else tuple(map(_union, before, found, access.value.shape))
    stages = tuple(TileStage(x, domains[x.name]) for x in staged.stages)
    stored = {v: _same_box(boxes[v], v, axes, sizes) for v in staged.kept if v in staged.outputs}
    if any(x is None for x in stored.values()):
        return None
    firsts = {v: x for v, x in stored.items() if x is not None}
    return TileSpec(staged, axes, stages, {v: boxes[v] for v in staged.kept}, firsts)


def _same_box(box: Box, value: Value, axes: Sequence[Axis], sizes: Mapping[str, int] | None) -> tuple[str, ...] | None:
    """The axes that a box does not move with; None where boxes overlap or leave something out."""
    moving: set[str] = set()
    for span, extent in zip(box, value.shape, strict=True):
        along = next((x for x in axes if span == _tile(x, sizes) and x.extent == extent), None)
        if not span.whole:
            if along is None or along.name in moving:
                return None
            moving.add(along.name)
    return tuple(x.name for x in axes if x.name not in moving)


def _scatters(stage: KernelSpec) -> bool:
    writes = [s.write for s in stage.stores]
    return any(w.base is not None or w.update is not None or w.guard is not None for w in writes)


def _tile(axis: Axis, sizes: Mapping[str, int] | None) -> Span:
    if axis.extent == const(1):
        return whole(axis.extent)
    return _span(((axis.name, 1),), 0, TileSpec.size(axis) if sizes is None else const(sizes[axis.name]), axis.extent)


def _span(steps: tuple[tuple[str, int], ...], first: int, size: Expr, extent: Expr) -> Span:
    size = simplify(minimum(size, extent), {})
    return whole(extent) if size == extent else Span(steps, first, size, False)


def box_of(access: Access, stage: KernelSpec, domain: Mapping[str, Span]) -> Box:
    """What a stage with a spatial domain needs of the value that it reads."""
    spans = dict(domain) | {x.name: whole(x.extent) for x in stage.reduce}
    return tuple(_needed(at, extent, spans) for at, extent in zip(access.index, access.value.shape, strict=True))


def _needed(at: Expr, extent: Expr, spans: Mapping[str, Span]) -> Span:
    """The points of a dimension that an index meets while its axes run over their spans."""
    terms = affine(at, frozenset(spans))
    if terms is None or any(c < 0 for name, c in terms.items() if name is not None):
        return whole(extent)
    first = terms.pop(None)
    steps: dict[str, int] = {}
    size: Expr = const(1)
    for name, factor in terms.items():
        span = spans[str(name)]
        first += span.first * factor
        for axis, step in span.steps:
            steps[axis] = steps.get(axis, 0) + step * factor
        size = size + (span.size - 1) * factor
    return _span(tuple(sorted(steps.items())), first, size, extent)


def _union(a: Span, b: Span, extent: Expr) -> Span:
    if a == b:
        return a
    if a.whole or b.whole or a.steps != b.steps:
        return whole(extent)
    first = min(a.first, b.first)
    return _span(a.steps, first, maximum(a.size + (a.first - first), b.size + (b.first - first)), extent)


def _domain(stage: KernelSpec, boxes: dict[Value, Box]) -> dict[str, Span] | None:
    """The spatial box that makes what later stages need; None when some of it is needed by none, or boxes differ.

    A dimension that is no axis alone is made whole.
    """
    found: dict[str, Span] = {}
    extents = {x.name: x.extent for x in stage.spatial}
    for store in stage.stores:
        value = store.write.value
        if value not in boxes:
            return None
        box = list(boxes[value])
        for i, (at, extent) in enumerate(zip(store.write.index, value.shape, strict=True)):
            alone = isinstance(at, Var) and extents.get(at.name) == extent
            if not alone:
                box[i] = whole(extent)
            for name in sorted(variables(at)):
                span = box[i] if alone else whole(extents[name])
                if found.setdefault(name, span) != span:
                    return None
        boxes[value] = tuple(box)
    missing = [x for x in stage.spatial if x.name not in found]
    if any(x.extent != const(1) for x in missing):
        return None
    return found | {x.name: whole(x.extent) for x in missing}
