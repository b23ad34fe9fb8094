"""Attention found in the stages of whole models, and what only looks like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tilewright.device import load_device
from tilewright.frontend import load
from tilewright.ir.expr import Apply, Const
from tilewright.ir.ops import Axis
from tilewright.planning.connect import epilogue
from tilewright.planning.session import Session
from tilewright.testing.cases import node, steps
from tilewright.testing.conformance import welded
from tilewright.testing.heads import Heads
from tilewright.views.attention import AttentionSpec, attention_of
from tilewright.views.staged import staged_of


def found(model: onnx.ModelProto) -> AttentionSpec | None:
    module = load(model)
    session = Session("cuda:h200", load_device("h200"), [], {}, frozenset(module.constants))
    (group,) = welded(epilogue.make())(module.main.body, session.request()).groups
    staged = staged_of(group, module.constants)
    assert staged is not None
    return attention_of(staged)


def sizes(axes: tuple[Axis, ...]) -> list[Any]:
    return [x.extent.value for x in axes if isinstance(x.extent, Const)]


def roles(spec: AttentionSpec | None) -> dict[str, list[Any]]:
    assert spec is not None
    return {
        "batch": sizes(spec.batch),
        "rows": sizes(spec.rows),
        "keys": sizes((spec.keys,)),
        "depth": sizes(spec.depth),
        "columns": sizes(spec.columns),
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_roles_and_operands(dtype: str) -> None:
    spec = found(Heads(7, 5, 32, 48, heads=3, batch=2, dtype=dtype).model())
    assert roles(spec) == {"batch": [2, 3], "rows": [7], "keys": [5], "depth": [32], "columns": [48]}
    assert spec is not None
    assert [x.value.name for x in spec.scores.reads] == ["q", "k"]
    assert [x.value.name for x in spec.output.reads] == ["weights", "v"]
    assert [s.write.value for s in spec.output.stores] == list(spec.staged.outputs)
    assert spec.weights.dtype == dtype
    assert spec.scores.stores[0].expr.dtype == dtype


@pytest.mark.parametrize("mask", ["added", "where", "causal", "causal added"])
def test_a_mask_is_part_of_the_scores(mask: Any) -> None:
    spec = found(Heads(7, 9, mask=mask).model())
    assert roles(spec)["keys"] == [9]
    assert spec is not None
    (store,) = spec.scores.stores
    assert isinstance(store.expr, Apply)
    assert store.expr.op == ("add" if "added" in mask else "select")


def test_heads_beside_each_other_are_read_through_their_transposes() -> None:
    spec = found(Heads(7, 9, batch=2, joined=True).model())
    assert roles(spec) == {"batch": [2, 2], "rows": [7], "keys": [9], "depth": [32], "columns": [32]}
    assert spec is not None
    (store,) = spec.output.stores
    assert len(store.write.index) == 3


def test_heads_that_share_keys() -> None:
    assert roles(found(Heads(7, 9, heads=6, sharing=3).model()))["batch"] == [6]


def test_axes_of_one_point_play_no_role() -> None:
    assert roles(found(Heads(1, 9, heads=1).model())) == {
        "batch": [],
        "rows": [],
        "keys": [9],
        "depth": [32],
        "columns": [32],
    }


def test_keys_that_all_heads_share_make_heads_rows() -> None:
    nodes = steps("s = MatMul q k; p = Softmax s; y = MatMul p v")
    shapes = {"q": (2, 4, 3, 16), "k": (16, 5), "v": (5, 8)}
    assert roles(found(model(nodes, shapes))) == {
        "batch": [],
        "rows": [2, 4, 3],
        "keys": [5],
        "depth": [16],
        "columns": [8],
    }


def test_a_factor_may_be_computed_and_the_result_too() -> None:
    nodes = steps("t = Mul q c; s = MatMul t k; p = Softmax s; a = Neg v; o = MatMul p a; y = Relu o")
    spec = found(model(nodes, {"q": (4, 3, 16), "k": (4, 16, 5), "v": (4, 5, 8)}, {"c": np.float32(0.25)}))
    assert roles(spec)["batch"] == [4]
    assert spec is not None
    assert any(isinstance(x, Apply) and x.op == "mul" for x in spec.scores.body[0].args)  # type: ignore[attr-defined]
    (store,) = spec.output.stores
    assert isinstance(store.expr, Apply)
    assert store.expr.op == "max"


@pytest.mark.parametrize("turned", [False, True])
def test_rows_may_have_no_weights(turned: bool) -> None:
    nodes = steps("s = MatMul q k; p = Softmax s; c = Less f zero; t = Where c zero p; y = MatMul t v")
    if turned:
        nodes = steps("s = MatMul q k; p = Softmax s; c = Less f zero; t = Where c p zero; y = MatMul t v")
    spec = found(model(nodes, {**SHAPES, "f": (4, 8, 1)}, {"zero": np.float32(0)}))
    assert spec is not None
    assert isinstance(spec.empty, Apply)
    assert spec.empty.op == ("not" if turned else "lt")
    assert [x.value.name for x in spec.scores.reads] == ["q", "k", "f"]
    assert found(model(nodes, {**SHAPES, "f": (4, 8, 8)}, {"zero": np.float32(0)})) is None
    assert found(model(nodes, {**SHAPES, "f": (4, 8, 1)}, {"zero": np.float32(1)})) is None


SHAPES = {"q": (4, 8, 16), "k": (4, 16, 8), "v": (4, 8, 8)}


def model(
    nodes: list[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    weights: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info(n, 1, x) for n, x in shapes.items()],
        [info(n, 1, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(x), n) for n, x in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_the_plain_form_of_what_is_refused_is_taken() -> None:
    assert found(model(steps("s = MatMul q k; p = Softmax s; y = MatMul p v"), SHAPES)) is not None


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([*steps("s = MatMul q k"), node("Softmax", "s", "p", axis=1), *steps("y = MatMul p v")], "over the rows"),
        ([*steps("s = MatMul q k"), node("Softmax", "s", "p", axis=0), *steps("y = MatMul p v")], "over a batch"),
        ([*steps("s = MatMul q k"), node("LogSoftmax", "s", "p"), *steps("y = MatMul p v")], "its logarithm"),
        (steps("s = MatMul q k; p = Softmax s; t = Mul p s; y = MatMul t v"), "scores weigh once more"),
        (steps("s = MatMul q k; p = Softmax s; t = Sqrt p; y = MatMul t v"), "not linear in the weights"),
        (steps("s = MatMul q k; p = Softmax s; o = MatMul p v; y = Add o s"), "scores in the result"),
        (steps("s = MatMul q k; p = Softmax s; y = MatMul v p"), "summed over the rows"),
        (steps("s = MatMul q k; e = Exp s; m = ReduceMax s; d = Sub s m; y = MatMul e d"), "no softmax"),
        (steps("s = MatMul q k; p = Softmax s; y = MatMul p s"), "scores as values"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_other_stages_are_left_alone(nodes: list[onnx.NodeProto], why: str) -> None:
    assert found(model(nodes, SHAPES)) is None, why


@pytest.mark.parametrize("used", ["s", "p"])
def test_what_is_read_elsewhere_must_be_stored(used: str) -> None:
    nodes = steps("s = MatMul q k; p = Softmax s; y = MatMul p v")
    assert found(model(nodes, SHAPES, outputs=("y", used))) is None


def handmade(reduced: str) -> list[onnx.NodeProto]:
    """Softmax by hand, with another reduction in place of the maximum."""
    return [
        *steps("s = MatMul q k"),
        node(reduced, "s last", "m", keepdims=1),
        *steps("d = Sub s m; e = Exp d"),
        node("ReduceSum", "e last", "t", keepdims=1),
        *steps("p = Div e t; y = MatMul p v"),
    ]


@pytest.mark.parametrize(("reduced", "taken"), [("ReduceMax", True), ("ReduceMin", False), ("ReduceSum", False)])
def test_softmax_is_known_by_what_it_computes(reduced: str, taken: bool) -> None:
    spec = found(model(handmade(reduced), SHAPES, {"last": [2]}))
    assert (spec is not None) == taken
