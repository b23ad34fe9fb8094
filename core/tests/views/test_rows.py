"""Stages that share rows: which do, and that each row needs nothing of another one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest

from core.tests.views.evaluated import run
from core.tests.views.staged_models import (
    GROUP,
    LAYER,
    MIDDLE,
    ONE_ROW,
    RESIDUAL,
    SCALED,
    SOFTMAX,
    group_of,
    normalisation,
    operands,
    rand,
    stages_of,
)
from tilewright.ir.expr import Const, Expr, const, substitute
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Access
from tilewright.testing.cases import Case, case, node, steps
from tilewright.testing.conformance import reference
from tilewright.views.kernel import KernelSpec, Store
from tilewright.views.rows import RowSpec, rows_of
from tilewright.views.staged import staged_of

SHARING = {
    "softmax": (SOFTMAX, "reduce map reduce map", [2, 3], [7], "row map row"),
    "middle": (MIDDLE, "reduce map reduce map", [2, 3], [5], "row map row"),
    "one row": (ONE_ROW, "reduce map reduce map", [], [7], "row map row"),
    "scaled": (SCALED, "map reduce map reduce map", [4], [6], "map row map row"),
    "layer": (LAYER, "reduce reduce map", [2, 3], [6], "row row"),
    "group": (GROUP, "reduce reduce map", [2, 3], [2, 3, 4], "row row"),
    "residual": (RESIDUAL, "map reduce reduce map", [3], [8], "map row row"),
    "one group of one image": (
        normalisation("GroupNormalization", (1, 4, 1, 5), 4, num_groups=1),
        "reduce reduce map",
        [],
        [4, 5],
        "row row",
    ),
    "a number per row between": (
        case(
            "between",
            [node("ArgMax", "x", "i", axis=1), node("GatherElements", "x i", "m", axis=1), *steps("y = Sub x m")],
            {"x": rand(5, 6)},
        ),
        "reduce row map",
        [5],
        [6],
        "row row",
    ),
    "equal extents": (
        case("equal", [node("Softmax", "x", "y", axis=1)], {"x": rand(4, 4, 4)}),
        "reduce map reduce map",
        [4, 4],
        [4],
        "row map row",
    ),
}


def rows_in(one: Case) -> RowSpec:
    found = rows_of(stages_of(one))
    assert found is not None
    return found


@pytest.mark.parametrize("name", SHARING)
def test_rows_columns_and_kinds(name: str) -> None:
    one, kinds, rows, columns, kept = SHARING[name]
    found = rows_in(one)
    assert [x.kind for x in found.stages] == kinds.split()
    assert [x.extent for x in found.rows] == [const(n) for n in rows]
    assert [x.extent for x in found.columns] == [const(n) for n in columns]
    assert [kind for _, kind in found.kept] == kept.split()


@pytest.mark.parametrize("name", [x for x in SHARING if x != "a number per row between"])
def test_rows_can_be_computed_one_by_one(name: str) -> None:
    """What stages make of other rows is not there: it is NaN."""
    one = SHARING[name][0]
    module, _ = group_of(one)
    found = rows_in(one)
    results = {x.name: np.full(x.static_shape(), np.nan, np.float32) for x in found.staged.outputs}
    for row in itertools.product(*(range(x.extent.value) for x in found.rows if isinstance(x.extent, Const))):
        at = {x.name: const(i) for x, i in zip(found.rows, row, strict=True)}
        values = operands(one, module)
        for stage in found.stages:
            values |= run(_at(stage.spec, at), values)
        for key, array in results.items():
            here = ~np.isnan(values[key])
            assert np.isnan(array[here]).all(), "two rows make the same element"
            array[here] = values[key][here]
    for value, wanted in zip(module.main.body.results, reference(one), strict=True):
        np.testing.assert_allclose(results[value.name], wanted, rtol=1e-5, atol=1e-5)


def _at(spec: KernelSpec, at: Mapping[str, Expr]) -> KernelSpec:
    """The stage at one row."""

    def point(expr: Expr) -> Expr:
        return substitute(expr, at)

    reads = tuple(Access(x.value, tuple(map(point, x.index)), x.guard, x.fill) for x in spec.reads)
    stores = tuple(
        Store(attrs.evolve(s.write, index=tuple(map(point, s.write.index))), point(s.expr)) for s in spec.stores
    )
    axes = tuple(x for x in spec.axes if x.name not in at)
    return attrs.evolve(spec, axes=axes, reads=reads, stores=stores, body=tuple(map(point, spec.body)))


def _weights(axis: int) -> dict[str, Any]:
    return {"a": np.asarray([axis], np.int64)}


@pytest.mark.parametrize(
    "one",
    [
        case("no reduction", steps("e = Exp x; s = Softsign e; y = Add e s"), {"x": rand(3, 4)}, outputs=("e", "y")),
        case("other rows", steps("s = Softmax x; y = ReduceSum s a"), {"x": rand(3, 4)}, _weights(0)),
        case(
            "transposed",
            [node("Softmax", "x", "s"), node("Transpose", "s", "t", perm=[1, 0]), *steps("y = Sub s t")],
            {"x": rand(4, 4)},
            outputs=("s", "y"),
        ),
        case(
            "shifted",
            [*steps("s = Softmax x; y = Pad s p")],
            {"x": rand(4, 5)},
            {"p": np.asarray([0, 1, 0, -1], np.int64)},
            outputs=("s", "y"),
        ),
        case("product", steps("s = Softmax x; y = MatMul s w"), {"x": rand(4, 5)}, {"w": rand(5, 5)}),
        case(
            "nothing passes",
            steps("s = ReduceMax x; y = ReduceMin z"),
            {"x": rand(4), "z": rand(4)},
            outputs=("s", "y"),
        ),
    ],
    ids=lambda x: x.name,
)
def test_what_shares_no_rows(one: Case) -> None:
    module, group = group_of(one)
    shared = tuple((name, "shared") for name, _ in group.levels)
    found = staged_of(attrs.evolve(group, levels=shared), module.constants)
    assert found is not None
    assert rows_of(found) is None


def test_extents_that_are_known_while_running_only_are_no_rows() -> None:
    staged = stages_of(SOFTMAX)
    assert rows_of(attrs.evolve(staged, symbols=(Symbol("n", 1, 9),))) is None
