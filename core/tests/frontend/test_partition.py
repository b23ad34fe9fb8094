"""What becomes of each node, and the parts that a model is cut into, run one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from core.tests.frontend.models import model, node
from tilewright.errors import InputError, SteeredError, UnsupportedError
from tilewright.frontend import fold, load
from tilewright.frontend.legalize import builtin_table
from tilewright.frontend.partition import Part, Verdict, classify, cut
from tilewright.frontend.source import read
from tilewright.interpret.tensor import interpret
from tilewright.ir.lengths import delivered, delivered_names
from tilewright.runtime.reference import ReferenceStep
from tilewright.runtime.stats import Stats
from tilewright.testing.fuzz import draw_graph
from tilewright.testing.node_cases import cases

TABLE = builtin_table()
X = np.array([[0.0, 1.5, -2.0], [3.0, 0.0, 0.25]], np.float32)


def verdicts(made: onnx.ModelProto, **given: Any) -> list[Verdict]:
    return list(classify(read(made), TABLE, **given).verdicts)


def parts(made: onnx.ModelProto, **given: Any) -> tuple[Part, ...]:
    return cut(classify(read(made), TABLE, **given))


def run(pipeline: Sequence[Part], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs: native parts interpreted, all others on ONNX's evaluator."""
    values = dict(feeds)
    for part in pipeline:
        if part.means == "native":
            module = load(part.source)
            given = (part.inputs, part.outputs)
            assert (module.input_names, delivered_names(module.output_names, module.lengths)) == given
            outputs = interpret(module, {x: values[x] for x in part.inputs})
            values |= zip(part.outputs, delivered(module.output_names, module.lengths, outputs), strict=True)
            continue
        step = ReferenceStep(part.source.proto, part.source.weights, Stats())
        found = step.run([values[x] for x in part.inputs])
        values |= zip(part.outputs, found, strict=True)
    return values


def agree(made: onnx.ModelProto, feeds: Mapping[str, Any], **given: Any) -> tuple[Part, ...]:
    """The parts, after they gave what ONNX Runtime gives for the whole model."""
    found = parts(made, **given)
    values = run(found, feeds)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    for info, wanted in zip(made.graph.output, session.run(None, dict(feeds)), strict=True):
        assert values[info.name].dtype == wanted.dtype
        np.testing.assert_allclose(values[info.name], wanted, rtol=1e-6)
    return found


def test_what_follows_a_result_of_unknown_shape_waits_for_it() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["n"]),
        node("Transpose", ["n"], ["t"], perm=[1, 0]),
        node("GatherND", ["x", "t"], ["g"]),
        node("Exp", ["x"], ["y"]),
    ]
    made = model(nodes, {"x": X}, outputs=["g", "y"])
    found = agree(made, {"x": X})
    assert [(x.means, [v.node.op_type for v in x.verdicts]) for x in found] == [
        ("native", ["Relu", "Exp"]),
        ("reference", ["NonZero"]),
        ("specialise", ["Transpose", "GatherND"]),
    ]
    assert [(x.inputs, x.outputs) for x in found] == [
        (("x",), ("r", "y")),
        (("r",), ("n",)),
        (("n", "x"), ("g",)),
    ]
    open_dim = found[2].source.proto.graph.input[0].type.tensor_type.shape.dim[1]
    assert not open_dim.HasField("dim_value")


def test_a_result_of_the_reference_whose_shape_is_known_needs_no_waiting() -> None:
    made = model([node("RandomUniformLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], {"x": X})
    assert [x.means for x in parts(made)] == ["reference", "native"]


def test_a_shape_computed_from_shapes_is_no_cut() -> None:
    nodes = [
        node("NonZero", ["x"], ["n"]),
        node("Shape", ["n"], ["s"]),
        node("Gather", ["s", "one"], ["c"]),
        node("Concat", ["c", "two"], ["shape"], axis=0),
        node("Reshape", ["n", "shape"], ["y"]),
    ]
    made = model(nodes, {"x": X}, weights={"one": np.array([1]), "two": np.array([2])})
    found = agree(made, {"x": X})
    assert [x.means for x in found] == ["reference", "specialise"]


def test_a_computed_value_that_steers_a_shape_is_a_cut() -> None:
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        node("Reshape", ["whole", "one"], ["k"]),
        node("TopK", ["x", "k"], ["values", "indices"], axis=1),
        node("Neg", ["values"], ["y"]),
    ]
    made = model(nodes, {"x": X}, weights={"one": np.array([1])}, outputs=["y", "indices"])
    found = agree(made, {"x": X})
    assert [(x.means, len(x.verdicts)) for x in found] == [("native", 3), ("specialise", 2)]
    steered = found[1].verdicts[0]
    assert steered.steering == ("k",)
    assert isinstance(steered.error, SteeredError)
    assert steered.what.startswith("TopK node 'the TopK'")
    assert "depends on the data" in steered.why


def test_what_small_inputs_steer_is_one_part() -> None:
    nodes = [node("Cast", ["k"], ["n"], to=TensorProto.INT64), node("TopK", ["x", "n"], ["y", "i"], axis=1)]
    made = model(nodes, {"x": X, "k": np.zeros(1, np.int32)}, outputs=["y", "i"])
    (part,) = agree(made, {"x": X, "k": np.array([2], np.int32)})
    assert (part.means, [x.steering for x in part.verdicts]) == ("specialise", [(), ("n",)])
    assert [x.means for x in parts(made, bind={"k": np.array([2], np.int32)})] == ["native"]


def test_what_can_be_compiled_now_does_not_wait() -> None:
    nodes = [
        node("RandomUniformLike", ["x"], ["r"]),
        node("NonZero", ["r"], ["n"]),
        node("MatMul", ["r", "w"], ["m"]),
        node("Transpose", ["n"], ["t"]),
        node("GatherND", ["m", "t"], ["g"]),
        node("Relu", ["m"], ["y"]),
    ]
    made = model(nodes, {"x": X}, outputs=["g", "y"], weights={"w": np.ones((3, 3), np.float32)})
    found = parts(made)
    assert [(x.means, [v.node.op_type for v in x.verdicts]) for x in found] == [
        ("reference", ["RandomUniformLike", "NonZero"]),
        ("native", ["MatMul", "Relu"]),
        ("specialise", ["Transpose", "GatherND"]),
    ]


def test_a_loop_around_a_strange_node_is_left_whole() -> None:
    body = helper.make_graph(
        [
            node("NonZero", ["s"], ["n"]),
            node("Size", ["n"], ["size"]),
            node("Cast", ["size"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["s", "f"], ["t"]),
            helper.make_node("Add", ["t", "x"], ["out"]),
            node("Identity", ["c"], ["going"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 3]),
        ],
    )
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Loop", ["trips", "", "r"], ["l"], body=body),
        node("Sqrt", ["l"], ["y"]),
    ]
    made = model(nodes, {"x": X}, weights={"trips": np.array(3)})
    found = agree(made, {"x": X})
    assert [x.means for x in found] == ["native", "reference", "specialise"]  # a state might change its shape
    assert found[1].inputs == ("r", "x")
    assert found[1].source.weights.keys() == {"trips"}
    assert "NonZero" in found[1].verdicts[0].why


def test_outputs_that_nothing_computes_are_copied_by_a_compiled_part() -> None:
    made = model(
        [node("NonZero", ["x"], ["n"]), node("Add", ["w", "w"], ["c"])],
        {"x": X},
        weights={"w": np.arange(3, dtype=np.float32)},
        outputs=["n", "c", "x"],
    )
    made.graph.output[2].CopyFrom(made.graph.input[0])
    found = parts(made)
    assert [(x.means, x.outputs) for x in found] == [("native", ("c", "x")), ("reference", ("n",))]
    np.testing.assert_array_equal(found[0].source.weights["c"], [0, 2, 4])
    module = load(found[0].source)
    assert module.output_names == ("c", "x")


def test_weights_are_shared_not_copied() -> None:
    weights = {"w": np.arange(12, dtype=np.float32).reshape(3, 4)}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("NonZero", ["m"], ["n"]), node("NonZero", ["w"], ["o"])]
    source = read(model(nodes, {"x": X}, weights=weights, outputs=["n", "m"]))
    (first, _) = cut(classify(source, TABLE))
    assert np.shares_memory(first.source.weights["w"], source.weights["w"])


def test_functions_of_the_model_are_expanded_first() -> None:
    function = helper.make_function(
        "acme", "Count", ["a"], ["b"],
        [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("NonZero", ["r"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    counted = helper.make_node("Count", ["x"], ["y"], domain="acme")
    made = model([counted], {"x": X}, functions=[function])
    assert [x.means for x in agree(made, {"x": X})] == ["native", "reference"]


def test_functions_of_another_opset_are_left_whole() -> None:
    where = helper.make_function(
        "acme", "Where", ["a"], ["b"], [helper.make_node("NonZero", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Where", ["r"], ["b"], domain="acme")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 3)]
    outer = helper.make_function("acme", "Outer", ["a"], ["b"], nodes, opsets)
    call = helper.make_node("Outer", ["r"], ["y"], domain="acme", name="call")
    made = model([node("Neg", ["x"], ["r"]), call], {"x": X}, functions=[where])
    made.functions.append(outer)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, [2, "n"]))
    (first, second) = parts(made)
    assert (first.means, second.means) == ("native", "reference")
    assert "NonZero node 'call/Where/" in second.verdicts[0].why
    values = run((first, second), {"x": X})
    np.testing.assert_array_equal(values["y"], np.nonzero(np.maximum(-X, 0)))


def test_strings_sequences_and_optionals() -> None:
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"])
    made = model(
        [node("Equal", ["t", "words"], ["e"]), node("Not", ["e"], ["y"])],
        {"t": ("float32", [2])},
        weights={"words": np.zeros(2, np.float32)},
        opset=19,
    )
    made.graph.initializer[0].CopyFrom(words)
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    found = agree(made, {"t": np.array(["a", "c"], object)})
    assert [x.means for x in found] == ["reference", "native"]
    assert [x.op_type for x in found[0].source.proto.graph.node] == ["Constant", "Equal"]
    with pytest.raises(UnsupportedError, match="'t'"):
        load(made)


def where(made: onnx.ModelProto) -> dict[str, str]:
    return {x.node.output[0]: x.where for x in verdicts(made)}


def test_sequences_that_the_import_knows_are_native() -> None:
    nodes = [
        node("SplitToSequence", ["x", "one"], ["s"]),
        node("SequenceAt", ["s", "one"], ["a"]),
        node("SequenceLength", ["s"], ["n"]),
        node("NonZero", ["a"], ["z"]),
    ]
    made = model(nodes, {"x": X}, weights={"one": np.array(1)}, outputs=["z", "n"])
    assert where(made) == {"s": "native", "a": "native", "n": "constant", "z": "reference"}
    found = agree(made, {"x": X})
    assert [x.means for x in found] == ["native", "reference"]


def test_sequences_that_leave_a_part_go_to_the_evaluator() -> None:
    kind = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    made = model([node("Neg", ["x"], ["m"]), node("SequenceConstruct", ["m", "x"], ["s"])], {"x": X}, outputs=["s"])
    made.graph.output[0].CopyFrom(kind)
    assert where(made) == {"m": "native", "s": "reference"}

    nodes = [
        node("SequenceConstruct", ["x"], ["s"]),
        node("RandomUniformLike", ["x"], ["r"]),
        node("SequenceInsert", ["s", "r"], ["t"]),
        node("SequenceAt", ["t", "one"], ["a"]),
        node("Relu", ["a"], ["y"]),
    ]
    made = model(nodes, {"x": X}, weights={"one": np.array(1)})
    assert where(made) == dict.fromkeys("srta", "reference") | {"y": "native"}
    (first, second) = parts(made)
    assert run((first, second), {"x": X})["y"].shape == X.shape
    assert second.means == "native"


def test_sequences_that_wait_for_a_run_stay_compiled_if_they_stay_inside() -> None:
    nodes = [
        node("NonZero", ["x"], ["n"]),
        node("SequenceConstruct", ["n"], ["s"]),
        node("SequenceAt", ["s", "i"], ["y"]),
    ]
    made = model(nodes, {"x": X}, weights={"i": np.array(0)})
    assert where(made) == {"n": "reference", "s": "specialised", "y": "specialised"}
    agree(made, {"x": X})

    nodes = [node("SplitToSequence", ["x", "k"], ["s"], axis=1), node("SequenceAt", ["s", "i"], ["y"])]
    made = model(nodes, {"x": X, "k": np.zeros(2, np.int64)}, weights={"i": np.array(0)})
    assert set(where(made).values()) == {"specialised"}
    made.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    assert set(where(made).values()) == {"reference"}


def test_missing_shapes_and_wrong_nodes_end_a_strict_classification_only() -> None:
    open_ = model([node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["y"])], {"x": ("float32", ["n", 3])})
    with pytest.raises(InputError, match="--shape"):
        classify(read(open_), TABLE)
    found = verdicts(open_, lenient=True)
    assert [(x.where, x.open) for x in found] == [("specialised", ("x",)), ("reference", ())]
    assert [x.where for x in verdicts(open_, shapes={"x": [2, 3]})] == ["native", "reference"]

    wrong = model([node("Relu", ["x"], ["r"])], {"x": X}, outputs=["y"])
    wrong.graph.node.append(node("MatMul", ["r", "r"], ["y"]))
    wrong.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2]))
    with pytest.raises(InputError, match="MatMul"):
        classify(read(wrong), TABLE)
    assert [x.where for x in verdicts(wrong, lenient=True)] == ["native", "unsupported"]


def test_what_the_evaluator_does_not_have_is_unsupported() -> None:
    training = "ai.onnx.preview.training"
    made = model([node("Relu", ["x"])], {"x": X})
    made.opset_import.append(helper.make_opsetid(training, 1))
    made.graph.node[0].CopyFrom(helper.make_node("Gradient", ["x"], ["y"], name="g", domain=training, xs=["x"], y="x"))
    (found,) = verdicts(made)
    assert found.where == "unsupported"
    assert "reference evaluator cannot run ai.onnx.preview.training.Gradient" in found.why


@pytest.mark.parametrize("seed", range(20))
def test_wherever_the_cuts_are_the_parts_compute_the_model(seed: int) -> None:
    graph = draw_graph(seed)
    found = classify(read(graph.model), TABLE)
    assert {x.where for x in found.verdicts} <= {"native", "constant"}
    rng = np.random.default_rng(seed)
    control = ("If", "Loop", "Scan")  # of which the evaluator does not have everything
    moved = [
        attrs.evolve(x, where="reference") if rng.random() < 0.4 and x.node.op_type not in control else x
        for x in found.verdicts
    ]
    pipeline = cut(attrs.evolve(found, verdicts=tuple(moved)))
    names = [x.name for x in graph.model.graph.input]
    values = run(pipeline, dict(zip(names, graph.feeds, strict=True)))
    for info, wanted in zip(graph.model.graph.output, graph.expected, strict=True):
        mine = values[info.name]
        assert mine.dtype == wanted.dtype
        np.testing.assert_allclose(mine, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", [x for x in cases() if "_expanded" in x.name and "sequence_map" in x.name])
def test_sequences_go_where_the_evaluator_is(case: Any) -> None:
    assert [x.means for x in cut(classify(read(case.model), TABLE, lenient=True))] == ["reference"]


def test_an_error_of_the_evaluator_names_the_node() -> None:
    made = model([node("Unique", ["x"], ["y"], axis=7)], {"x": X})
    step = ReferenceStep(made, {}, Stats())
    with pytest.raises(InputError, match=r"runs Unique node 'the Unique', fails: \w*AxisError"):
        step.run([X])


def test_a_result_of_another_type_than_onnx_says_is_an_error() -> None:
    made = model([node("NonZero", ["x"], ["y"])], {"x": X})
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(InputError, match=r"gives int64\[2, 4\] as 'y'.*NonZero.*int32"):
        ReferenceStep(made, {}, Stats()).run([X])


def test_folding_keeps_to_the_opset() -> None:
    clip = helper.make_node("Clip", ["x"], ["y"], min=0.0, max=1.0)
    (found,) = fold.evaluate(clip, [X], {"": 6}, "Clip") or ()
    np.testing.assert_array_equal(found, np.clip(X, 0, 1))


def test_what_the_evaluator_gets_wrong_is_not_folded() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
    nodes = [node("Softmax", ["w"], ["s"]), node("Add", ["x", "s"], ["y"])]
    made = model(nodes, {"x": rows}, weights={"w": rows}, opset=11)
    (mine,) = interpret(load(made), {"x": rows})
    flat = np.exp(rows.reshape(2, 12).astype(np.float64))
    np.testing.assert_allclose(mine, rows + (flat / flat.sum(1, keepdims=True)).reshape(2, 3, 4), rtol=1e-6)
    with pytest.raises(UnsupportedError, match="Softmax before opset 13"):
        ReferenceStep(made, {}, Stats())


def test_an_optional_holds_its_value_and_nothing_around_it() -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])
    nodes = [
        node("Optional", ["x"], ["o"]),
        node("OptionalGetElement", ["o"], ["y"]),
        node("Optional", [], ["empty"], type=kind),
        node("OptionalHasElement", ["empty"], ["has"]),
    ]
    made = model(nodes, {"x": X}, outputs=["y", "has"])
    pipeline = parts(made)
    values = run(pipeline, {"x": X})
    np.testing.assert_array_equal(values["y"], X)
    assert values["has"].tolist() is False
