"""Weights stored by rows: a module computes the same, bit for bit, and only weights that few rows meet are turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.verify import verify_module
from tilewright.rewrites.weights import FEW, weights_by_rows
from tilewright.testing.cases import Case, case, node, steps

RNG = np.random.default_rng(3)


def rand(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def turned(module: Module, feeds: list[Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the constants that were turned, once it is sure that the module computes the same."""
    found = weights_by_rows(module)
    verify_module(found)
    for before, now in zip(interpret(module, feeds), interpret(found, feeds), strict=True):
        np.testing.assert_array_equal(before, now)
    shapes = {name: x.data.shape for name, x in found.constants.items()}
    return {name: x for name, x in shapes.items() if x != module.constants[name].data.shape}


def of(made: Case) -> dict[str, tuple[int, ...]]:
    module = load(made.model)
    return turned(module, [made.feeds[n] for n in module.input_names])


@pytest.mark.parametrize(("rows", "shapes"), [(1, {"w": (6, 5)}), (FEW, {"w": (6, 5)}), (FEW + 1, {})])
def test_a_weight_of_few_rows_has_what_is_summed_innermost(rows: int, shapes: object) -> None:
    assert of(case("product", steps("y = MatMul x w"), {"x": rand(rows, 5)}, {"w": rand(5, 6)})) == shapes


def test_a_stack_of_matrices_keeps_its_order() -> None:
    made = case("stack", steps("y = MatMul x w"), {"x": rand(7, 2, 5)}, {"w": rand(7, 5, 6)})
    assert of(made) == {"w": (7, 6, 5)}


def test_what_lies_in_rows_already_stays() -> None:
    made = case("gemm", [node("Gemm", "x w", "y", transB=1)], {"x": rand(2, 5)}, {"w": rand(6, 5)})
    assert of(made) == {}


def test_a_weight_that_is_read_in_another_way_too_stays() -> None:
    """A row of it, and as the first factor, whose rows lie along the sum."""
    feeds, weights = {"x": rand(1, 7), "i": np.asarray([1])}, {"w": rand(7, 6)}
    assert of(case("both", steps("a = Gather w i; b = MatMul x w; y = Add a b"), feeds, weights)) == {}
    first = case("first", steps("y = MatMul w x"), {"x": rand(6, 1)}, weights)
    assert of(first) == {}


def test_a_weight_inside_loops_and_branches_is_turned_with_its_readers() -> None:
    def typed(name: str, dtype: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, shape)

    state = typed("s", TensorProto.FLOAT, 1, 5), typed("n", TensorProto.FLOAT, 1, 5)
    inner = [helper.make_graph([node("MatMul", "s w", "t")], "then", [], [typed("t", TensorProto.FLOAT, 1, 5)])]
    inner += [helper.make_graph([node("MatMul", "s v", "o")], "else", [], [typed("o", TensorProto.FLOAT, 1, 5)])]
    nodes = [
        node("Less", "i two", "early"),
        helper.make_node("If", ["early"], ["n"], then_branch=inner[0], else_branch=inner[1]),
        node("Identity", "c", "on"),
    ]
    params = [typed("i", TensorProto.INT64), typed("c", TensorProto.BOOL), state[0]]
    body = helper.make_graph(nodes, "body", params, [typed("on", TensorProto.BOOL), state[1]])
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    weights = {"w": rand(5, 5), "v": rand(5, 5), "two": np.asarray(2), "trips": np.asarray(4)}
    held = [numpy_helper.from_array(x, name) for name, x in weights.items()]
    x, y = typed("x", TensorProto.FLOAT, 1, 5), typed("y", TensorProto.FLOAT, 1, 5)
    model = helper.make_model(
        helper.make_graph([loop], "g", [x], [y], held), opset_imports=[helper.make_opsetid("", 18)]
    )
    module = load(model)
    before = {n: c.data for n, c in module.constants.items()}
    turned(module, [rand(1, 5)])
    after = {n: c.data for n, c in weights_by_rows(module).constants.items()}
    changed = [n for n in before if not np.array_equal(before[n], after[n])]
    assert sorted(changed) == ["v", "w"]
    assert all(np.array_equal(after[n], before[n].T) for n in changed)
