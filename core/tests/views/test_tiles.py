"""Boxes that a tile of the results needs, worked out by hand, and in general: what is read lies in the box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.tests.views.staged_models import stages_of
from tilewright.ir.expr import Const
from tilewright.testing.cases import Case, case, node, steps
from tilewright.views.tiles import Span, TileSpec, tiles_of

SAME = {"pads": [1, 1, 1, 1]}


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def convs(*layers: dict[str, Any], size: int = 20) -> Case:
    """Convolutions of three channels, one after the other."""
    nodes, weights = [], {}
    for i, layer in enumerate(layers):
        kernel = layer.get("kernel", 3)
        attributes = {k: v for k, v in layer.items() if k != "kernel"}
        last = "y" if i == len(layers) - 1 else f"x{i + 1}"
        nodes.append(node("Conv", f"{'x' if not i else f'x{i}'} w{i}", last, **attributes))
        weights[f"w{i}"] = zeros(3, 3, kernel, kernel)
    return case("convs", nodes, {"x": zeros(1, 3, size, size)}, weights)


def spans(found: TileSpec, name: str) -> list[tuple[int, int]]:
    """(first point, size) of each dimension of a value's box, for the tile that begins at 0."""
    box = next(b for v, b in found.boxes.items() if v.name == name)
    return [(x.first, x.size.value) for x in box if isinstance(x.size, Const)]


def tiled(one: Case, size: int) -> TileSpec:
    staged = stages_of(one)
    free = tiles_of(staged)
    assert free is not None
    found = tiles_of(staged, {x.name: min(size, int(x.extent.value)) for x in free.axes if isinstance(x.extent, Const)})
    assert found is not None
    return found


def test_a_window_needs_a_halo_and_all_channels() -> None:
    assert spans(tiled(convs({"kernel": 1}, SAME), 4), "x1") == [(0, 1), (0, 3), (-1, 6), (-1, 6)]


def test_halos_add_up_along_a_chain() -> None:
    found = tiled(convs(SAME, SAME, SAME), 4)
    assert spans(found, "x2")[2:] == [(-1, 6), (-1, 6)]
    assert spans(found, "x1")[2:] == [(-2, 8), (-2, 8)]


def test_strides_multiply() -> None:
    found = tiled(convs({"kernel": 1}, {**SAME, "strides": [2, 2]}), 3)
    assert spans(found, "x1")[2:] == [(-1, 7), (-1, 7)]
    (box,) = found.boxes.values()
    assert [x for span in box for x in span.steps] == [("i1", 2), ("i2", 2)]


def test_what_covers_a_dimension_begins_at_its_start() -> None:
    assert spans(tiled(convs({"kernel": 1}, SAME, size=5), 4), "x1")[2:] == [(0, 5), (0, 5)]
    (box,) = tiled(convs({"kernel": 1}, SAME, size=5), 4).boxes.values()
    assert all(x.whole for x in box)


def test_readers_with_different_windows_get_what_both_need() -> None:
    nodes = [node("Conv", "x u", "c"), node("Conv", "c v", "d", **SAME), *steps("y = Add c d")]
    one = case("two", nodes, {"x": zeros(1, 3, 20, 20)}, {"u": zeros(3, 3, 1, 1), "v": zeros(3, 3, 3, 3)})
    assert spans(tiled(one, 4), "c")[2:] == [(-1, 6), (-1, 6)]


def test_a_reshape_needs_the_whole() -> None:
    nodes = [node("MaxPool", "x", "p", kernel_shape=[3, 3]), node("Reshape", "p s", "r"), *steps("y = MatMul r w")]
    one = case("reshape", nodes, {"x": zeros(1, 3, 6, 6)}, {"s": np.asarray([6, 8]), "w": zeros(8, 5)})
    (box,) = tiled(one, 2).boxes.values()
    assert all(x.whole for x in box)


def test_a_value_that_others_read_too_is_no_chain() -> None:
    nodes = [node("Conv", "x u", "c"), node("Conv", "c v", "y", **SAME)]
    weights = {"u": zeros(3, 3, 1, 1), "v": zeros(3, 3, 3, 3)}
    one = case("kept", nodes, {"x": zeros(1, 3, 9, 9)}, weights, outputs=["c", "y"])
    assert tiles_of(stages_of(one)) is None


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_what_is_read_lies_in_the_box(size: int) -> None:
    """Every element that a tile's windows meet inside of the value, by brute force along one dimension."""
    extent = 9
    found = tiled(convs({"kernel": 1}, {**SAME, "strides": [2, 2]}, size=2 * extent), size)
    (box,) = found.boxes.values()
    span: Span = box[2]
    assert isinstance(span.size, Const)
    for origin in range(0, extent, size):
        needed = {2 * at + r - 1 for at in range(origin, min(origin + size, extent)) for r in range(3)}
        first = 0 if span.whole else span.first + 2 * origin
        assert {x for x in needed if 0 <= x < 2 * extent} <= set(range(first, first + span.size.value))


def rows(*outputs: str) -> TileSpec | None:
    """A scale, and a product behind it, of which the outputs are stored."""
    nodes = [*steps("a = Mul x s"), node("MatMul", "a w", "y")]
    return tiles_of(
        stages_of(case("rows", nodes, {"x": zeros(5, 6)}, {"s": zeros(6), "w": zeros(6, 4)}, outputs=outputs))
    )


def test_of_tasks_that_make_the_same_part_the_first_stores_it() -> None:
    found = rows("a", "y")
    assert found is not None
    ((value, axes),) = found.stored.items()
    assert (value.name, axes) == ("a", ("i1",))
    assert [(x.steps, x.whole) for x in found.boxes[value]] == [((("i0", 1),), False), ((), True)]


def test_what_nothing_else_reads_is_not_stored() -> None:
    found = rows("y")
    assert found is not None
    assert not found.stored


def test_a_part_that_tasks_step_over_cannot_be_stored() -> None:
    """Every second row is needed, so nobody would make the others."""
    nodes = [node("Relu", "x", "a"), node("Slice", "a b e c d", "t"), node("MatMul", "t w", "y")]
    weights = {"b": np.asarray([0]), "e": np.asarray([8]), "c": np.asarray([0]), "d": np.asarray([2])}
    one = case("steps", nodes, {"x": zeros(8, 6)}, weights | {"w": zeros(6, 4)}, outputs=["a", "y"])
    assert tiles_of(stages_of(one)) is None
