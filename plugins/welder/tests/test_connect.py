"""Welds on a GPU's model: planning needs no device."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import numpy as np
import onnx
import pytest
from onnx import helper

from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.ir.group import Group
from tilewright.ir.ops import TensorOp
from tilewright.ir.verify.groups import verify_cover
from tilewright.planning.session import Session
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.heads import Heads
from tilewright_welder.options import WelderOptions
from tilewright_welder.search import Candidate, choose, search
from tilewright_welder.tile_graph import TileGraph


def model(
    nodes: list[onnx.NodeProto], shape: list[int], weights: dict[str, list[int]] | None = None
) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    constants = [
        onnx.numpy_helper.from_array(np.ones(dims, np.float32), name) for name, dims in (weights or {}).items()
    ]
    graph = helper.make_graph(nodes, "g", [info("x", 1, shape)], [info("y", 1, None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def softmax() -> onnx.ModelProto:
    return model([helper.make_node("Softmax", ["x"], ["y"])], [8, 256])


def norm() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["t"]),
        helper.make_node("LayerNormalization", ["t", "g", "b"], ["u"]),
        helper.make_node("MatMul", ["u", "w"], ["y"]),
    ]
    return model(nodes, [4096, 1024], {"g": [1024], "b": [1024], "w": [1024, 1024]})


def linear(rows: int, sizes: tuple[int, ...]) -> onnx.ModelProto:
    """Linear layers of float16 with a rectifier between them."""
    info, nodes, weights = helper.make_tensor_value_info, [], []
    for i, (k, n) in enumerate(itertools.pairwise(sizes)):
        weights += [(f"w{i}", (k, n)), (f"b{i}", (n,))]
        nodes += [
            helper.make_node("MatMul", [f"r{i}", f"w{i}"], [f"p{i}"]),
            helper.make_node("Add", [f"p{i}", f"b{i}"], [f"q{i}"]),
            helper.make_node("Relu", [f"q{i}"], [f"r{i + 1}"]),
        ]
    constants = [onnx.numpy_helper.from_array(np.ones(shape, np.float16), name) for name, shape in weights]
    ends = info("r0", 10, (rows, sizes[0])), info(f"r{len(sizes) - 1}", 10, (rows, sizes[-1]))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def session(made: onnx.ModelProto, **options: Any) -> tuple[Session, Any]:
    module = load(made)
    config = Config(target="cuda:h200", slots={"connect": "welder"}, options={"welder": options})
    return conformance.session_of(bind(config, Registry()), module), module


def groups(made: onnx.ModelProto, **options: Any) -> list[Group]:
    planning, module = session(made, **options)
    cover = planning.connect(module.main.body)
    verify_cover(cover, constants=frozenset(module.constants))
    return list(cover.groups)


def test_softmax_is_one_kernel() -> None:
    (group,) = groups(softmax())
    assert {level for _, level in group.levels} == {"shared"}
    assert len(group.outputs) == 1


def test_a_normalisation_takes_in_what_comes_before_and_leaves_the_product_alone() -> None:
    first, second = groups(norm())
    assert {op.loc.op_type for op in first.ops} == {"Relu", "LayerNormalization"}
    assert {op.loc.op_type for op in second.ops} == {"MatMul"}


def test_a_budget_that_is_used_up_leaves_the_default_cover_and_says_so() -> None:
    planning, module = session(softmax(), budget=1e-9)
    assert len(planning.connect(module.main.body).groups) == 4
    assert any("budget" in x.why for x in planning.record.decisions)


def test_a_gain_that_no_weld_has_leaves_the_default_cover() -> None:
    planning, module = session(softmax(), gain=0.999)
    assert len(planning.connect(module.main.body).groups) == 4
    assert any("together" in x.why and "apart" in x.why for x in planning.record.decisions)


def test_every_edge_between_kernels_has_a_reason() -> None:
    planning, module = session(norm())
    planning.connect(module.main.body)
    reasons = {str(x.subject): x.why for x in planning.record.decisions if "->" in str(x.subject)}
    (subject,) = reasons
    assert subject.endswith("y")
    assert "apart" in reasons[subject]


@pytest.mark.parametrize("sizes", [(64,) * 7 + (3,), (256,) * 7 + (3,)], ids=str)
def test_layers_of_many_rows_are_one_kernel(sizes: tuple[int, ...]) -> None:
    planning, module = session(linear(65536, sizes))
    (group,) = planning.connect(module.main.body).groups
    assert planning.propose(group)[0].recipe in ("cuda.chain", "cuda.chain_wgmma")
    assert [level for _, level in group.levels].count("shared") == 6


@pytest.mark.parametrize("sizes", [(256,) * 5, (768, 3072, 768)], ids=str)
def test_layers_of_few_rows_stay_apart_because_every_block_would_read_all_weights(sizes: tuple[int, ...]) -> None:
    planning, module = session(linear(128, sizes))
    assert len(planning.connect(module.main.body).groups) == len(sizes) - 1
    reasons = [x.why for x in planning.record.decisions if " -> " in x.subject]
    assert reasons
    # Of the wide layers, not even the fewest rows' results fit in shared memory.
    assert all(", apart" in x or "fits the device" in x for x in reasons)


def test_attention_is_one_kernel_of_both_products_and_the_softmax_between() -> None:
    planning, module = session(Heads(256, 256, 64, 64, heads=12, mask="added", joined=True).model())
    cover = planning.connect(module.main.body)
    verify_cover(cover, constants=frozenset(module.constants))
    (group,) = cover.groups
    assert planning.propose(group)[0].recipe == "cuda.attention"
    assert any("6 kernels in one" in x.why for x in planning.record.decisions)


def test_a_set_takes_in_a_maker_and_a_reader_together_where_neither_is_taken_alone() -> None:
    graph, planning = graph_of(Heads(256, 256, 64, 64, heads=12).model())
    planning.recipes = tuple(x for x in planning.recipes if x.name != "cuda.stages")  # which takes either
    found = search(graph, planning, WelderOptions())
    assert [x.nodes for x in found.welds] == [(0, 1, 2, 3, 4, 5)]
    softmax_alone = graph.welded([1, 2, 3, 4])
    assert planning.matches(softmax_alone)
    for nodes in ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5]):
        assert not planning.matches(graph.welded(nodes))
    few = search(graph, planning, WelderOptions(most=5))
    assert [x.nodes for x in few.welds] == [(1, 2, 3, 4)]


def layers(number: int) -> onnx.ModelProto:
    nodes = []
    for i in range(number):
        last = "y" if i == number - 1 else f"x{i + 1}"
        nodes += [
            helper.make_node("Softmax", ["x" if not i else f"x{i}"], [f"s{i}"]),
            helper.make_node("MatMul", [f"s{i}", "w"], [last]),
        ]
    return model(nodes, [4096, 1024], {"w": [1024, 1024]})  # too much for tiles through several products


def priced(made: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the groups that the proposer is asked for while the model is connected."""
    planning, module = session(made)
    propose, asked = planning.service("propose"), []

    def counted(group: Group, request: Any) -> Any:
        asked.append(group.name)
        return propose(group, request)

    monkeypatch.setitem(planning._services, "propose", counted)
    assert len(planning.connect(module.main.body).groups) == len(made.graph.node)
    return asked


def test_equal_layers_are_priced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert priced(layers(5), monkeypatch) == priced(layers(2), monkeypatch)


def test_a_weld_that_costs_more_than_was_estimated_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    planning, module = session(softmax())
    propose = planning.service("propose")

    def measured(group: Group, request: Any) -> Any:
        factor = 1.0 if request.estimate or len(group.ops) == 1 else 100.0
        return tuple(attrs.evolve(x, cost=x.cost * factor) for x in propose(group, request))

    monkeypatch.setitem(planning._services, "propose", measured)
    assert len(planning.connect(module.main.body).groups) == 4
    assert any("together" in x.why and "apart" in x.why for x in planning.record.decisions)


def graph_of(made: onnx.ModelProto) -> tuple[TileGraph, Session]:
    module = load(made)
    planning = conformance.session_of(bind(Config(target="cuda:h200"), Registry()), module)
    return TileGraph(planning.connect(module.main.body)), planning


def test_sets_with_a_path_around_them_are_not_convex() -> None:
    graph, _ = graph_of(softmax())  # max -> exp -> sum -> division, and exp -> division
    assert graph.convex([0, 1])
    assert graph.convex([1, 2, 3])
    assert not graph.convex([1, 3])
    assert graph.neighbours([1]) == [2, 3, 0]
    assert [v.name for v in graph.crossing([1, 2, 3])] == ["y_exp", "y_sum"]


def test_two_welds_that_need_each_other_are_no_order() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"]),
    ]
    graph, _ = graph_of(model(nodes, [4, 8]))
    assert graph.acyclic([(0, 1), (2, 3)])
    assert not graph.acyclic([(0, 2), (1, 3)])


@pytest.mark.parametrize(
    ("offered", "best"),
    [
        ([((0, 1), 3.0), ((1, 2), 4.0), ((2, 3), 3.0)], [(0, 1), (2, 3)]),
        ([((0, 1), 1.0), ((1, 2), 4.0), ((2, 3), 1.0)], [(1, 2)]),
        ([((0, 1, 2), 5.0), ((0, 1), 3.0), ((2, 3), 3.0)], [(0, 1), (2, 3)]),
    ],
)
def test_the_welds_that_save_the_most_together_are_chosen(
    offered: list[tuple[tuple[int, ...], float]], best: list[tuple[int, ...]]
) -> None:
    graph, _ = graph_of(softmax())
    candidates = [Candidate(nodes, 0, gain, 0.0) for nodes, gain in offered]
    assert [x.nodes for x in choose(candidates, graph)] == best


def test_a_search_says_whether_it_is_complete() -> None:
    graph, planning = graph_of(softmax())
    assert search(graph, planning, WelderOptions()).complete
    assert not search(graph, planning, WelderOptions(budget=1e-9)).complete


def many(nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], weights: dict[str, list[int]]) -> onnx.ModelProto:
    """A model with output `y`, of float32."""
    info = helper.make_tensor_value_info
    constants = [onnx.numpy_helper.from_array(np.ones(dims, np.float32), name) for name, dims in weights.items()]
    ends = [info(name, 1, dims) for name, dims in inputs.items()]
    graph = helper.make_graph(nodes, "g", ends, [info("y", 1, None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_element_wise_kernels_that_meet_become_one() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["a"], ["p"]),
        helper.make_node("Tanh", ["b"], ["q"]),
        helper.make_node("Exp", ["c"], ["r"]),
        helper.make_node("Mul", ["p", "q"], ["s"]),
        helper.make_node("Add", ["s", "r"], ["y"]),
    ]
    (group,) = groups(many(nodes, {"a": [64, 64], "b": [64, 64], "c": [64, 64]}, {}))
    assert len(group.ops) == 5
    assert all(level == "register" for _, level in group.levels)


def test_an_element_wise_kernel_stays_where_another_stands_between() -> None:
    nodes = [
        helper.make_node("Exp", ["a"], ["p"]),
        helper.make_node("MatMul", ["p", "w"], ["q"]),
        helper.make_node("MatMul", ["q", "w"], ["r"]),
        helper.make_node("Tanh", ["b"], ["s"]),
        helper.make_node("Mul", ["s", "p"], ["t"]),
        helper.make_node("Add", ["r", "t"], ["y"]),
    ]
    found = groups(many(nodes, {"a": [1024, 1024], "b": [1024, 1024]}, {"w": [1024, 1024]}))
    assert sorted(len(x.ops) for x in found) == [1, 2, 3]


def test_one_of_fewer_points_is_not_computed_again_for_each() -> None:
    nodes = [
        helper.make_node("Exp", ["a"], ["p"]),
        helper.make_node("Tanh", ["b"], ["q"]),
        helper.make_node("Mul", ["q", "p"], ["y"]),
    ]
    assert len(groups(many(nodes, {"a": [1, 64], "b": [4096, 64]}, {}))) == 2


def step(hidden: int) -> onnx.ModelProto:
    """A step of an LSTM with what it remembers as `y`."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "bias"], ["m"], transB=1),
        helper.make_node("Gemm", ["h", "u"], ["n"], transB=1),
        helper.make_node("Add", ["m", "n"], ["g"]),
        helper.make_node("Split", ["g"], ["i", "f", "c", "o"], axis=1, num_outputs=4),
        *(helper.make_node("Sigmoid", [x], [f"{x}s"]) for x in "ifo"),
        helper.make_node("Tanh", ["c"], ["ct"]),
        helper.make_node("Mul", ["fs", "before"], ["kept"]),
        helper.make_node("Mul", ["is", "ct"], ["new"]),
        helper.make_node("Add", ["kept", "new"], ["cell"]),
        helper.make_node("Tanh", ["cell"], ["t"]),
        helper.make_node("Mul", ["os", "t"], ["y"]),
    ]
    inputs = {"x": [1, hidden], "h": [1, hidden], "before": [1, hidden]}
    return many(nodes, inputs, {"w": [4 * hidden, hidden], "u": [4 * hidden, hidden], "bias": [4 * hidden]})


def test_a_step_of_a_recurrence_is_one_kernel_with_its_gates_as_states() -> None:
    (group,) = groups(step(256))
    assert group.trail == ("by_pieces",)
    products = [op for op in group.ops if isinstance(op, TensorOp) and op.combiner is not None]
    assert [len(op.outputs) for op in products] == [4, 4]


@pytest.mark.parametrize(("rows", "kernels"), [(64, 1), (1 << 16, 2)])
def test_a_mask_is_computed_where_it_is_read_unless_that_moves_more_than_a_kernel_costs(
    rows: int, kernels: int
) -> None:
    nodes = [helper.make_node("Less", ["a", "b"], ["m"]), helper.make_node("Where", ["m", "c", "d"], ["y"])]
    shapes = {"a": [1, 64], "b": [1, 1], "c": [rows, 64], "d": [rows, 64]}
    assert len(groups(many(nodes, shapes, {}))) == kernels


def test_a_small_kernel_that_a_sum_reads_or_that_is_a_result_stays() -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["m"]),
        helper.make_node("Mul", ["m", "c"], ["z"]),
        helper.make_node("ReduceSum", ["m"], ["s"], keepdims=0),
        helper.make_node("Add", ["z", "s"], ["y"]),
    ]
    found = groups(many(nodes, {"a": [64, 1], "b": [1, 64], "c": [8, 64, 64]}, {}), gain=1.0)
    assert [len(x.ops) for x in found] == [1, 1, 2]
