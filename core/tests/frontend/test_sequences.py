"""Sequences and optionals whose lengths and presence are known: nothing of them is left in the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilewright.errors import InputError, SteeredError, UnsupportedError
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.ops import If, Loop, bodies
from tilewright.ir.verify import verify_module
from tilewright.testing.fuzz import difference
from tilewright.testing.reference import Reference

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
FEEDS = {
    "x": np.arange(12, dtype=np.float32).reshape(4, 3),
    "y": -np.arange(12, dtype=np.float32).reshape(4, 3),
    "flag": np.asarray(True),
    "n": np.asarray(1),
}
N = helper.make_node


def info(name: str, dtype: int = FLOAT, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def several(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, FLOAT, None)


def model(
    nodes: Sequence[onnx.NodeProto], outputs: Mapping[str, int], opset: int = 18, **weights: Any
) -> onnx.ModelProto:
    """A model of x, y, flag and n; weights are given as int64."""
    inputs = [info("x", FLOAT, [4, 3]), info("y", FLOAT, [4, 3]), info("flag", BOOL, []), info("n", INT, [])]
    results = [info(name, kind, ["a", "b"] if kind == FLOAT else []) for name, kind in outputs.items()]
    constants = [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in weights.items()]
    graph = helper.make_graph(list(nodes), "sequences", inputs, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check(made: onnx.ModelProto, loops: int = 0) -> Module:
    """Imports the model and compares it with the reference."""
    module = load(made)
    verify_module(module)
    assert sum(isinstance(op, Loop) for op in module.main.body.ops) == loops
    found = interpret(module, FEEDS)
    for name, ours, theirs in zip(module.output_names, found, Reference(18).graph(made.graph, FEEDS), strict=True):
        assert not difference(name, ours, theirs)
    return module


def without(name: str) -> dict[str, Any]:
    """The inputs but one, which is bound."""
    return {k: v for k, v in FEEDS.items() if k != name}


def body(
    nodes: Sequence[onnx.NodeProto],
    params: Sequence[onnx.ValueInfoProto],
    results: Sequence[onnx.ValueInfoProto],
) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "body", list(params), list(results))


def test_a_sequence_is_built_changed_and_read() -> None:
    nodes = [
        N("SequenceConstruct", ["x", "y"], ["s"]),
        N("Add", ["x", "y"], ["z"]),
        N("SequenceInsert", ["s", "z", "one"], ["t"]),
        N("SequenceInsert", ["t", "x"], ["u"]),
        N("SequenceErase", ["u", "zero"], ["v"]),
        N("SequenceErase", ["v"], ["w"]),
        N("Identity", ["w"], ["alias"]),
        N("SequenceAt", ["alias", "last"], ["out"]),
        N("SequenceAt", ["alias", "zero"], ["first"]),
        N("SequenceLength", ["u"], ["count"]),
    ]
    module = check(model(nodes, {"out": FLOAT, "first": FLOAT, "count": INT}, one=1, zero=0, last=-1))
    assert interpret(module, FEEDS)[2] == 4


@pytest.mark.parametrize("at", [-2, -1, 0, 1, 2])
def test_an_element_is_put_in_front_of_a_position(at: int) -> None:
    nodes = [
        N("SequenceConstruct", ["x", "x"], ["s"]),
        N("SequenceInsert", ["s", "y", "at"], ["t"]),
        N("ConcatFromSequence", ["t"], ["joined"], axis=0),
    ]
    made = model(nodes, {"joined": FLOAT}, at=at)
    (found,) = interpret(load(made), FEEDS)
    # Behind the last element the evaluator's own operator puts it in front of the first one.
    np.testing.assert_array_equal(found, onnxruntime.InferenceSession(made.SerializeToString()).run(None, FEEDS)[0])


def test_sequences_before_an_extent_could_be_0() -> None:
    nodes = [
        N("SplitToSequence", ["x"], ["s"], keepdims=0),
        N("ConcatFromSequence", ["s"], ["y2"], axis=1, new_axis=1),
    ]
    made = model(nodes, {"y2": FLOAT}, opset=12)
    (found,) = interpret(load(made), FEEDS)
    np.testing.assert_array_equal(found, FEEDS["x"].T)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("split", [None, 2, "sizes"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_tensor_is_split_and_joined(axis: int, split: Any, keepdims: int) -> None:
    extent = (4, 3)[axis]
    sizes = {"sizes": [1, extent - 1]}.get(split, split)
    inputs = ["x"] if split is None else ["x", "parts"]
    new_axis = int(split is None and not keepdims)
    nodes = [
        N("SplitToSequence", inputs, ["s"], axis=axis, keepdims=keepdims),
        N("SequenceErase", ["s", "zero"], ["rest"]),
        N("SequenceAt", ["s", "zero"], ["first"]),
        N("SequenceInsert", ["rest", "first"], ["turned"]),
        N("ConcatFromSequence", ["turned"], ["out"], axis=axis, new_axis=new_axis),
        N("SequenceLength", ["s"], ["count"]),
    ]
    weights = {} if split is None else {"parts": sizes}
    check(model(nodes, {"out": FLOAT, "count": INT}, zero=0, **weights))


def test_a_loop_that_collects_into_a_sequence_is_written_out() -> None:
    step = [
        N("Cast", ["i"], ["f"], to=FLOAT),
        N("Mul", ["x", "f"], ["scaled"]),
        N("SequenceInsert", ["s_in", "scaled"], ["s_out"]),
        N("Identity", ["going"], ["on"]),
    ]
    params = [info("i", INT, []), info("going", BOOL, []), several("s_in")]
    graph = body(step, params, [info("on", BOOL, []), several("s_out")])
    nodes = [
        N("SequenceEmpty", [], ["empty"]),
        N("Loop", ["three", "", "empty"], ["s"], body=graph),
        N("ConcatFromSequence", ["s"], ["out"], axis=0),
    ]
    check(model(nodes, {"out": FLOAT}, three=3))
    nodes[1] = N("Loop", ["n", "", "empty"], ["s"], body=graph)
    with pytest.raises(SteeredError, match=r"Loop node .* carries a sequence, and it is not known how often") as caught:
        load(model(nodes, {"out": FLOAT}))
    assert caught.value.inputs == ("n",)
    assert interpret(load(model(nodes, {"out": FLOAT}), bind={"n": np.asarray(2)}), without("n"))[0].shape == (8, 3)


def test_a_loop_reads_the_element_of_each_trip() -> None:
    step = [
        N("SequenceAt", ["s", "i"], ["item"]),
        N("Add", ["sum", "item"], ["sum_out"]),
        N("Identity", ["going"], ["on"]),
    ]
    params = [info("i", INT, []), info("going", BOOL, []), info("sum", FLOAT, [4, 3])]
    graph = body(step, params, [info("on", BOOL, []), info("sum_out", FLOAT, [4, 3])])
    nodes = [
        N("SequenceConstruct", ["x", "y", "x"], ["s"]),
        N("SequenceLength", ["s"], ["count"]),
        N("Loop", ["count", "", "x"], ["out"], body=graph),
    ]
    check(model(nodes, {"out": FLOAT}))


def test_a_body_is_mapped_over_sequences() -> None:
    graph = body([N("Sub", ["a", "b"], ["d"]), N("Neg", ["a"], ["e"])], [info("a"), info("b")], [info("d"), info("e")])
    nodes = [
        N("SequenceConstruct", ["x", "y"], ["s"]),
        N("SequenceMap", ["s", "x"], ["t", "u"], body=graph),
        N("ConcatFromSequence", ["t"], ["out"], axis=0),
        N("SequenceAt", ["u", "one"], ["second"]),
    ]
    module = load(model(nodes, {"out": FLOAT, "second": FLOAT}, one=1))
    out, second = interpret(module, FEEDS)
    x, y = FEEDS["x"], FEEDS["y"]
    assert out.tolist() == [*(x - x).tolist(), *(y - x).tolist()]
    assert second.tolist() == (-y).tolist()


def branching(lengths: tuple[int, int]) -> onnx.ModelProto:
    """Sequences of these lengths out of two branches."""
    graphs = [
        body(
            [N(kind, ["x"], [f"r{kind}"]), N("SequenceConstruct", [f"r{kind}", "y", "y"][:count], [f"s{kind}"])],
            [],
            [several(f"s{kind}")],
        )
        for kind, count in zip(("Neg", "Abs"), lengths, strict=True)
    ]
    nodes = [
        N("If", ["flag"], ["s"], then_branch=graphs[0], else_branch=graphs[1]),
        N("ConcatFromSequence", ["s"], ["out"], axis=0),
    ]
    return model(nodes, {"out": FLOAT})


def test_branches_give_sequences_of_one_length() -> None:
    module = check(branching((2, 2)))
    (branch,) = (op for op in module.main.body.ops if isinstance(op, If))
    assert len(branch.outputs) == 2
    assert all(region.ops for region in bodies(branch))
    with pytest.raises(UnsupportedError, match=r"Whether If node .* gives a sequence, or how long it is, hangs on"):
        load(branching((2, 3)))
    for flag, rows in ((True, 8), (False, 12)):
        module = load(branching((2, 3)), bind={"flag": np.asarray(flag)})
        assert interpret(module, without("flag"))[0].shape == (rows, 3)


def test_optionals_are_what_they_hold() -> None:
    empty = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [4, 3]))
    nodes = [
        N("Optional", ["x"], ["some"]),
        N("Optional", [], ["none"], type=empty),
        N("OptionalHasElement", ["some"], ["has"]),
        N("OptionalHasElement", ["none"], ["lacks"]),
        N("OptionalGetElement", ["some"], ["got"]),
        N("Neg", ["got"], ["out"]),
        N("SequenceConstruct", ["x", "y"], ["s"]),
        N("Optional", ["s"], ["some_s"]),
        N("OptionalGetElement", ["some_s"], ["got_s"]),
        N("SequenceAt", ["got_s", "one"], ["second"]),
        N("Identity", ["second"], ["out2"]),
    ]
    module = load(model(nodes, {"out": FLOAT, "has": BOOL, "lacks": BOOL, "out2": FLOAT}, one=1))
    out, has, lacks, second = interpret(module, FEEDS)
    assert out.tolist() == (-FEEDS["x"]).tolist()
    assert (bool(has), bool(lacks)) == (True, False)
    assert second.tolist() == FEEDS["y"].tolist()
    nodes.append(N("OptionalGetElement", ["none"], ["no"]))
    with pytest.raises(InputError, match=r"OptionalGetElement node .* of an optional that is empty"):
        load(model(nodes, {"no": FLOAT}, one=1))


def test_a_local_function_takes_and_gives_sequences() -> None:
    inner = [N("SequenceInsert", ["s", "t"], ["r"])]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("own", "Append", ["s", "t"], ["r"], inner, opsets)
    nodes = [
        N("SequenceConstruct", ["x"], ["s"]),
        N("Append", ["s", "y"], ["t"], domain="own"),
        N("ConcatFromSequence", ["t"], ["out"], axis=1),
    ]
    made = model(nodes, {"out": FLOAT})
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("own", 1))
    (out,) = interpret(load(made), FEEDS)
    assert out.tolist() == np.concatenate([FEEDS["x"], FEEDS["y"]], 1).tolist()


def test_what_is_not_known_is_refused_by_name() -> None:
    made = [N("SequenceConstruct", ["x", "y"], ["s"]), N("SequenceAt", ["s", "n"], ["out"])]
    with pytest.raises(SteeredError, match=r"Input 1 of SequenceAt node .* decides which elements") as caught:
        load(model(made, {"out": FLOAT}))
    assert caught.value.inputs == ("n",)
    assert interpret(load(model(made, {"out": FLOAT}), bind={"n": np.asarray(1)}), without("n"))[0][1, 1] == -4
    with pytest.raises(InputError, match=r"SequenceAt node .* is given the position 2, of 2"):
        load(model([made[0], N("SequenceAt", ["s", "two"], ["out"])], {"out": FLOAT}, two=2))
    with pytest.raises(UnsupportedError, match=r"output 's' is a sequence"):
        load(model(made[:1], {"s": FLOAT}))
    with pytest.raises(UnsupportedError, match=r"Scan node .* gives a sequence|Neg node .* reads a sequence"):
        load(model([made[0], N("Neg", ["s"], ["out"])], {"out": FLOAT}))
