"""Models of which ONNX's reference evaluator runs a part, beside the evaluator on the whole of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tilewright
from tests import onnx_runtime
from tilewright.errors import InputError, SteeredError, UnsupportedError

Tw = Callable[..., Any]
FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
RNG = np.random.default_rng(5)


def tensor(name: str, kind: int, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, Any] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(np.asarray(x), name) for name, x in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def agrees(program: tilewright.Executable, made: onnx.ModelProto | Path, feeds: dict[str, Any]) -> None:
    """Whether the program gives what ONNX Runtime gives."""
    whole = made if isinstance(made, onnx.ModelProto) else onnx.load(made)
    for mine, theirs in zip(program.run(None, feeds), onnx_runtime.expected(whole, feeds), strict=True):
        same(mine, theirs)


def same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            same(a, b)
    elif theirs is None:
        assert mine is None
    else:
        assert mine.shape == theirs.shape
        if mine.dtype == object:
            assert mine.tolist() == theirs.tolist()
        else:
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def rows(count: int = 4) -> np.ndarray[Any, Any]:
    return RNG.standard_normal((count, 3)).astype(np.float32)


def test_native_and_reference_parts_take_turns(
    picks: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnsupportedError, match=r"NonZero node 'where'.*fallback = \"reference\""):
        tilewright.compile(picks, shapes={"rows": 4})
    with caplog.at_level(logging.WARNING, "tilewright"):
        program = tilewright.compile(picks, shapes={"rows": 4}, fallback="reference")
    (warning,) = [x for x in caplog.records if x.levelno == logging.WARNING]
    assert "NonZero node 'where'" in warning.getMessage()
    with program:
        assert [x.kind for x in program.manifest.pipeline] == ["native", "reference", "specialise"]
        assert program.manifest.requires == ("runtime", "reference", "compiler")
        assert [str(x) for x in program.outputs] == ["float32[found]"]
        agrees(program, picks, {"x": np.abs(rows())})
        agrees(program, picks, {"x": -np.abs(rows())})  # finds nothing
        agrees(program, picks, {"x": rows()})
        assert program.stats.reference_runs == 3
    assert tilewright.compile(picks, shapes={"rows": 4}, fallback="reference").compile_seconds is None


def test_the_commands_report_it(tw: Tw, picks: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "p.tw"
    refused = tw("compile", picks, "--shape", "rows=4", "-o", out)
    assert refused.code == 2
    assert "--fallback reference" in refused.err
    made = tw("compile", picks, "--shape", "rows=4", "--fallback", "reference", "-o", out)
    assert made.code == 0
    assert "NonZero node 'where'" in made.err
    shown = tw("inspect", out)
    assert "NonZero node 'where'" in shown.out
    assert "reference" in next(x for x in shown.out.splitlines() if x.startswith("needs:"))
    manifest = json.loads(tw("inspect", out, "--json").out)
    assert [x["kind"] for x in manifest["pipeline"]] == ["native", "reference", "specialise"]
    explained = json.loads(tw("explain", out, "--slot", "fallback", "--json").out)
    assert [(x["subject"], x["chosen"]) for x in explained] == [("NonZero node 'where' (opset 17)", "reference")]
    np.save(tmp_path / "x.npy", rows())
    assert tw("run", out, "--input", f"x={tmp_path / 'x.npy'}").code == 0
    assert tw("compare", picks, "--shape", "rows=4", "--fallback", "reference").code == 0


def test_an_artifact_with_reference_parts_is_loaded_again(picks: Path, tmp_path: Path) -> None:
    with tilewright.compile(picks, shapes={"rows": 5}, fallback="reference") as program:
        program.save(tmp_path / "p.tw")
    with tilewright.load(tmp_path / "p.tw") as program:
        agrees(program, picks, {"x": rows(5)})
        with pytest.raises(InputError, match="dimension 0 must be 5"):
            program.run(None, {"x": rows(4)})


def test_strings_go_in_and_out() -> None:
    made = model(
        [
            helper.make_node("StringConcat", ["a", "suffix"], ["c"]),
            helper.make_node("Equal", ["c", "wanted"], ["e"]),
            helper.make_node("Cast", ["e"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["f", "x"], ["y"]),
        ],
        [tensor("a", STRING, [2]), tensor("x", FLOAT, [2])],
        [tensor("c", STRING, [2]), tensor("y", FLOAT, [2]), tensor("a", STRING, [2]), tensor("x", FLOAT, [2])],
    )
    made.graph.initializer.append(helper.make_tensor("suffix", STRING, [1], [b"!"]))
    made.graph.initializer.append(helper.make_tensor("wanted", STRING, [2], [b"a!", b"c!"]))
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        assert [str(x) for x in program.inputs] == ["string[2]", "float32[2]"]
        x = np.array([2, 3], np.float32)
        agrees(program, made, {"a": np.array(["a", "b"], object), "x": x})
        c, y, a, copied = program.run(None, {"a": np.array(["b", "c"]), "x": x})
        assert (c.tolist(), y.tolist(), a.tolist()) == (["b!", "c!"], [0, 3], ["b", "c"])
        assert copied is not x
        with pytest.raises(InputError, match="'a' needs strings"):
            program.run(None, {"a": x, "x": x})


def test_sequences_and_optionals_go_in_and_out() -> None:
    sequence = helper.make_tensor_sequence_value_info
    made = model(
        [
            helper.make_node("SequenceInsert", ["s", "x"], ["t"]),
            helper.make_node("SequenceLength", ["t"], ["n"]),
            helper.make_node("ConcatFromSequence", ["t"], ["c"], axis=0),
            helper.make_node("Exp", ["c"], ["y"]),
        ],
        [sequence("s", FLOAT, [None]), tensor("x", FLOAT, [2])],
        [sequence("t", FLOAT, [None]), tensor("n", INT64, []), tensor("y", FLOAT, ["total"])],
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        assert [x.kind for x in program.manifest.pipeline] == ["reference", "specialise"]
        x = np.array([2, 3], np.float32)
        agrees(program, made, {"s": [x[:1]], "x": x})
        agrees(program, made, {"s": [], "x": x})
        with pytest.raises(InputError, match="sequence of float32"):
            program.run(None, {"s": x, "x": x})

    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    made = model(
        [helper.make_node("OptionalHasElement", ["o"], ["has"]), helper.make_node("Not", ["has"], ["y"])],
        [helper.make_value_info("o", kind)],
        [tensor("y", BOOL, [])],
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        assert program.run(None, {"o": None})[0].item() is True
        assert program.run(None, {"o": np.zeros(2, np.float32)})[0].item() is False


def test_a_loop_is_left_whole_and_its_nodes_are_reported() -> None:
    body = helper.make_graph(
        [
            helper.make_node("NonZero", ["s"], ["n"], name="inside"),
            helper.make_node("Size", ["n"], ["k"]),
            helper.make_node("Cast", ["k"], ["f"], to=FLOAT),
            helper.make_node("Sub", ["s", "f"], ["out"]),
            helper.make_node("Identity", ["c"], ["going"]),
        ],
        "body",
        [tensor("i", INT64, []), tensor("c", BOOL, []), tensor("s", FLOAT, [4, 3])],
        [tensor("going", BOOL, []), tensor("out", FLOAT, [4, 3])],
    )
    made = model(
        [
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("Loop", ["trips", "", "a"], ["l"], body=body, name="outside"),
            helper.make_node("Tanh", ["l"], ["y"]),
        ],
        [tensor("x", FLOAT, [4, 3])],
        [tensor("y", FLOAT, [4, 3])],
        {"trips": np.array(2)},
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        (step,) = [x for x in program.manifest.pipeline if x.kind == "reference"]
        (node,) = step.nodes
        assert node.node.startswith("Loop node 'outside'")
        assert "NonZero node 'inside'" in node.inner
        agrees(program, made, {"x": rows()})


def test_a_name_inside_a_loop_may_be_one_outside_that_comes_later() -> None:
    body = helper.make_graph(
        [
            helper.make_node("NonZero", ["s"], ["n"]),
            helper.make_node("Size", ["n"], ["k"]),
            helper.make_node("Cast", ["k"], ["late"], to=FLOAT),
            helper.make_node("Sub", ["s", "late"], ["out"]),
            helper.make_node("Identity", ["c"], ["going"]),
        ],
        "body",
        [tensor("i", INT64, []), tensor("c", BOOL, []), tensor("s", FLOAT, [4, 3])],
        [tensor("going", BOOL, []), tensor("out", FLOAT, [4, 3])],
    )
    made = model(
        [
            helper.make_node("Loop", ["trips", "", "x"], ["l"], body=body),
            helper.make_node("Tanh", ["x"], ["late"]),
            helper.make_node("RandomUniformLike", ["late"], ["r"]),
            helper.make_node("Mul", ["r", "zero"], ["z"]),
            helper.make_node("Add", ["l", "z"], ["y"]),
        ],
        [tensor("x", FLOAT, [4, 3])],
        [tensor("y", FLOAT, [4, 3])],
        {"trips": np.array(2), "zero": np.array(0, np.float32)},
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        assert [x.kind for x in program.manifest.pipeline][:2] == ["native", "reference"]
        agrees(program, made, {"x": rows()})


def test_a_computed_count_needs_no_fallback() -> None:
    made = model(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["whole"], to=INT64),
            helper.make_node("Reshape", ["whole", "one"], ["k"]),
            helper.make_node("TopK", ["x", "k"], ["values", "places"]),
        ],
        [tensor("x", FLOAT, [5])],
        [tensor("values", FLOAT, ["k"]), tensor("places", INT64, ["k"])],
        {"one": np.array([1])},
    )
    with tilewright.compile(made, cache=False) as program:
        assert [x.kind for x in program.manifest.pipeline] == ["native", "specialise"]
        assert "reference" not in program.manifest.requires
        for most in (3, 2, 3):
            agrees(program, made, {"x": RNG.permutation(np.array([most, 0.5, 1, -1, 0], np.float32))})
        assert program.stats.specialised == 2
    with pytest.raises(SteeredError, match="TopK"):
        tilewright.compile(made, jit=False, cache=False)


def test_what_only_a_run_finds_out_falls_back_there(caplog: pytest.LogCaptureFixture) -> None:
    made = model(
        [helper.make_node("Dropout", ["x", "ratio", "training"], ["d"], seed=0), helper.make_node("Neg", ["d"], ["y"])],
        [tensor("x", FLOAT, [4, 3]), tensor("training", BOOL, [])],
        [tensor("y", FLOAT, [4, 3])],
        {"ratio": np.array(0.5, np.float32)},
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        agrees(program, made, {"x": rows(), "training": np.array(False)})
        assert program.stats.reference_runs == 0
        feeds = {"x": rows(), "training": np.array(True)}
        with caplog.at_level(logging.WARNING, "tilewright"):
            (mine,) = program.run(None, feeds)
        same(mine, ReferenceEvaluator(made).run(None, feeds)[0])  # whose dice ours are
        assert "Dropout" in caplog.text
        assert program.stats.reference_runs == 1
    with (
        tilewright.compile(made, cache=False) as program,
        pytest.raises(UnsupportedError, match=r"Dropout.*at random.*fallback"),
    ):
        program.run(None, {"x": rows(), "training": np.array(True)})


def test_unknown_types_after_the_reference() -> None:
    inner = [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["r"], to=FLOAT)]
    then = helper.make_graph(inner, "then", [], [onnx.ValueInfoProto(name="r")])
    orelse = helper.make_graph([helper.make_node("Neg", ["x"], ["m"])], "else", [], [onnx.ValueInfoProto(name="m")])
    for graph in (then, orelse):
        graph.output[0].CopyFrom(tensor(graph.output[0].name, FLOAT, None))
    made = model(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Greater", ["s", "zero"], ["c"]),
            helper.make_node("If", ["c"], ["i"], then_branch=then, else_branch=orelse),
            helper.make_node("Relu", ["i"], ["y"]),
        ],
        [tensor("x", FLOAT, [2, 3])],
        [tensor("y", FLOAT, None)],
        {"zero": np.array(0, np.float32)},
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        agrees(program, made, {"x": np.ones((2, 3), np.float32)})
        agrees(program, made, {"x": -np.ones((2, 3), np.float32)})


def test_what_the_evaluator_cannot_do_is_said_with_the_node() -> None:
    made = model(
        [helper.make_node("SequenceAt", ["s", "i"], ["y"], name="odd")],
        [helper.make_tensor_sequence_value_info("s", FLOAT, [None]), tensor("i", INT64, [])],
        [tensor("y", FLOAT, ["n"])],
    )
    with tilewright.compile(made, fallback="reference", cache=False) as program:
        feeds = {"s": [rows()[0]], "i": np.asarray(5)}
        with pytest.raises(InputError, match=r"evaluator, which runs SequenceAt node 'odd', fails: IndexError"):
            program.run(None, feeds)
        same(program.run(None, feeds | {"i": np.asarray(0)}), feeds["s"])


def test_what_nothing_runs_gets_no_hint_at_the_fallback() -> None:
    made = model(
        [helper.make_node("Odd", ["x"], ["y"], domain="com.acme", name="the odd")],
        [tensor("x", FLOAT, [1])],
        [tensor("y", FLOAT, [1])],
    )
    made.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(UnsupportedError, match=r"com.acme.Odd node 'the odd'") as plain:
        tilewright.compile(made)
    assert "fallback" not in str(plain.value)
    with pytest.raises(UnsupportedError, match=r"'the odd'.*reference evaluator cannot run com.acme.Odd"):
        tilewright.compile(made, fallback="reference")


def test_a_wrong_name_is_an_error() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [1])])
    with pytest.raises(InputError, match="'reference'"):
        tilewright.compile(made, fallback="referense")


def test_several_shapes_are_cut_when_they_come(picks: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tilewright.compile(picks, shapes={"rows": [2, 4]}, fallback="reference") as program:
        assert program.manifest.requires == ("runtime", "reference", "compiler")
        assert [x.node for step in program.manifest.pipeline for x in step.nodes] == ["NonZero node 'where' (opset 17)"]
        for count in (4, 2, 4):
            agrees(program, picks, {"x": np.abs(rows(count))})
        assert caplog.text.count("NonZero node 'where'") == 2  # when it was compiled, and at the first cut
        with pytest.raises(InputError, match="3x3"):
            program.run(None, {"x": rows(3)})
    made = model(
        [helper.make_node("RandomUniformLike", ["x"], ["r"]), helper.make_node("Mul", ["x", "r"], ["y"])],
        [tensor("x", FLOAT, ["n"])],
        [tensor("y", FLOAT, ["n"])],
    )
    with pytest.raises(InputError, match="2 sets of shapes"):
        tilewright.compile(made, shapes={"n": [2, 4]}, fallback="reference", jit=False)
    with tilewright.compile(made, shapes={"n": 4}, fallback="reference", jit=False, cache=False) as program:
        with pytest.raises(InputError, match=r"'x' is declared as float32\[4\] and was given float32\[5\]"):
            program.run(None, {"x": np.ones(5, np.float32)})
        (y,) = program.run(None, {"x": np.ones(4, np.float32)})
        assert len(set(y.tolist())) == 4


def test_a_range_of_sizes_is_no_shape_to_cut_by(picks: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"NonZero node 'where'.*dimension 'rows' is given a range"):
        tilewright.compile(picks, shapes={"rows": range(1, 5)}, fallback="reference")


def test_commands_that_need_numbers_say_so(tw: Tw, tmp_path: Path, cache: Path) -> None:
    nodes = [helper.make_node("StringConcat", ["a", "a"], ["c"])]
    path = tmp_path / "texts.onnx"
    onnx.save(model(nodes, [tensor("a", STRING, [2])], [tensor("c", STRING, [2])]), path)
    np.save(tmp_path / "a.npy", np.array(["x", "yz"]))
    given = ("--fallback", "reference", "--input", f"a={tmp_path / 'a.npy'}")
    ran = tw("run", path, *given, "--save-outputs", tmp_path / "out", "--json")
    assert json.loads(ran.out)["outputs"][0]["dtype"] == "string"
    assert np.load(json.loads(ran.out)["saved"][0]).tolist() == ["xx", "yzyz"]
    refused = tw("compare", path, *given)
    assert refused.code == 2
    assert "takes tensors of numbers only; 'a' is string[2]" in refused.err
