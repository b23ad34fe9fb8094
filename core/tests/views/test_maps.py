"""Inverting index maps, compared with enumeration of every point."""

from __future__ import annotations

import itertools
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Expr, Var, const
from tilewright.ir.ops import Axis
from tilewright.views.maps import axis_bounds, invert


@st.composite
def joined_axes(draw: st.DrawFn) -> tuple[list[Axis], list[Expr], list[int]]:
    """Axes in any order, joined into dimensions by mixed radix."""
    extents = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    axes = [Axis(f"a{i}", const(n)) for i, n in enumerate(extents)]
    shuffled = draw(st.permutations(axes))
    cuts = sorted(draw(st.sets(st.integers(1, len(axes)), max_size=3)) | {len(axes)})
    index: list[Expr] = []
    shape: list[int] = []
    start = 0
    for cut in cuts:
        part = shuffled[start:cut]
        start = cut
        position: Expr = const(0)
        for axis in part:
            position = position * axis.extent + axis.var
        index.append(position)
        shape.append(prod(int(x.extent.value) for x in part))  # type: ignore[attr-defined]
    return axes, index, shape


@given(joined_axes())
def test_the_inverse_undoes_the_map_at_every_point(case: tuple[list[Axis], list[Expr], list[int]]) -> None:
    axes, index, shape = case
    point = [Var(f"p{i}") for i in range(len(shape))]
    point_axes = [Axis(f"p{i}", const(n)) for i, n in enumerate(shape)]
    found = invert(axes, index, [const(n) for n in shape], point, axis_bounds(point_axes))
    assert found is not None
    for values in itertools.product(*(range(int(x.extent.value)) for x in axes)):  # type: ignore[attr-defined]
        at = dict(zip((x.name for x in axes), values, strict=True))
        element = {f"p{i}": int(evaluate(e, at)) for i, e in enumerate(index)}
        assert {name: int(evaluate(e, element)) for name, e in found.items()} == at


def test_a_map_that_is_not_one_to_one_has_no_inverse() -> None:
    i, j = Axis("i", const(4)), Axis("j", const(4))
    point = [Var("p")]
    assert invert([i, j], [i.var * 3 + j.var], [const(13)], point, {}) is None  # overlapping
    assert invert([i, j], [i.var * 5 + j.var], [const(20)], point, {}) is None  # with gaps
    assert invert([i, j], [i.var], [const(4)], point, {}) is None  # j is free
    assert invert([i], [i.var + 1], [const(5)], point, {}) is None  # shifted
