"""Whatever is wrong with the input: one paragraph that says what and what to do, exit code 2, and nothing
left behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

Tw = Callable[..., Any]


def refused(result: Any, *words: str) -> None:
    """The command failed as for bad input, in a few lines that name what matters."""
    assert result.code == 2, (result.code, result.err)
    assert result.err.startswith("error: "), result.err
    assert len(result.err.splitlines()) <= 2
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, (word, result.err)
    assert result.out == ""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where an artifact would go; nothing may be there afterwards."""
    return tmp_path / "out" / "x.tw"


@pytest.fixture(autouse=True)
def _nothing_left(out: Path) -> Any:
    out.parent.mkdir()
    yield
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\x00" * 64, bytes(range(256))])
def test_not_a_model(tw: Tw, tmp_path: Path, out: Path, content: bytes) -> None:
    (tmp_path / "text.onnx").write_bytes(content)
    refused(tw("compile", tmp_path / "text.onnx", "-o", out), "text.onnx")


def test_no_such_file(tw: Tw, out: Path) -> None:
    refused(tw("compile", "/no/such/model.onnx", "-o", out), "/no/such/model.onnx", "No such file")


def test_a_folder(tw: Tw, tmp_path: Path, out: Path) -> None:
    refused(tw("compile", tmp_path, "-o", out), str(tmp_path))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_model(tw: Tw, dense: Path, tmp_path: Path, out: Path, share: float) -> None:
    data = dense.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(len(data) * share)])
    refused(tw("compile", tmp_path / "cut.onnx", "-o", out))


def test_an_unknown_operator(tw: Tw, dense: Path, tmp_path: Path, out: Path) -> None:
    model = onnx.load(dense)
    model.graph.node[1].op_type = "Reluu"
    model.graph.node[1].name = "the odd one"
    onnx.save(model, tmp_path / "odd.onnx")
    refused(tw("compile", tmp_path / "odd.onnx", "-o", out), "Reluu")


def test_missing_external_data(tw: Tw, dense: Path, tmp_path: Path, out: Path) -> None:
    model = onnx.load(dense)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert tw("compare", tmp_path / "m.onnx").code == 0
    (tmp_path / "weights.bin").unlink()
    refused(tw("compile", tmp_path / "m.onnx", "-o", out), "weights.bin")


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/passwd", "link.bin"])
def test_external_data_outside_of_the_models_folder(tw: Tw, dense: Path, tmp_path: Path, out: Path, place: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(6 * 4 * 4))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    model = onnx.load(dense)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    refused(tw("compile", folder / "m.onnx", "-o", out), place.split("/")[-1])


def test_a_symbolic_dimension_without_shape(tw: Tw, symbolic: Path, out: Path) -> None:
    refused(tw("compile", symbolic, "-o", out), "'x'", "--shape")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("y=3x4", ["'y'"]),
        ("x=3x5", ["'x'"]),
        ("x=3", ["'x'"]),
        ("x", ["NAME=1x3x224x224"]),
        ("x=3xfour", ["NAME=1x3x224x224"]),
    ],
)
def test_a_wrong_shape(tw: Tw, symbolic: Path, out: Path, shape: str, words: list[str]) -> None:
    refused(tw("compile", symbolic, "-o", out, "--shape", shape), *words)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("X", np.zeros((3, 6), np.float32), ["no input named 'X'", "Did you mean 'x'?"]),
        ("x", np.zeros((3, 6), np.float64), ["'x'", "float32", "float64"]),
        ("x", np.zeros((6, 3), np.float32), ["'x'", "[3, 6]", "[6, 3]"]),
        ("x", np.zeros(18, np.float32), ["'x'", "2 dimensions"]),
    ],
)
def test_a_wrong_input_at_run_time(
    tw: Tw, dense: Path, tmp_path: Path, name: str, array: Any, words: list[str]
) -> None:
    np.save(tmp_path / "x.npy", array)
    refused(tw("run", dense, "--input", f"{name}={tmp_path / 'x.npy'}"), *words)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cpuu", ["target", "'cpuu'"]),
        ("cpu:zen4", ["zen4"]),
        ("cuda:h2000", ["h2000"]),
        ("quantum", ["'quantum'"]),
    ],
)
def test_an_unknown_target(tw: Tw, dense: Path, out: Path, target: str, words: list[str]) -> None:
    refused(tw("compile", dense, "-o", out, "--target", target), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[slots]\nconnect = 'epilog'", ["slot 'connect'", "'epilog'", "Did you mean 'epilogue'?"]),
        ("[slots]\nconect = 'epilogue'", ["'conect'", "Did you mean 'connect'?"]),
        ("[slot]\nconnect = 'epilogue'", ["'slot'", "Did you mean 'slots'?"]),
        ("[options.rollr]\ntopk = 1", ["rollr"]),
        ("[passes]\nafter.connect = ['acme.layout']", ["acme.layout"]),
        ("[verify]\nlevel = 'sometimes'", ["verify.level", "every-stage"]),
        ("schema = 2", ["TOML"]),
        ("[plugins]\ndisabled = ['backend']", ["plugins.disabled", "Did you mean 'backends'?"]),
    ],
)
def test_a_wrong_configuration(tw: Tw, dense: Path, tmp_path: Path, out: Path, text: str, words: list[str]) -> None:
    (tmp_path / "c.toml").write_text(f"schema = 1\n{text}\n")
    refused(tw("compile", dense, "-o", out, "--config", tmp_path / "c.toml"), *words)


def test_a_missing_configuration(tw: Tw, dense: Path, out: Path) -> None:
    refused(tw("compile", dense, "-o", out, "--config", "/no/such.toml"), "/no/such.toml")


def test_a_missing_plugin(tw: Tw, dense: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "c.toml").write_text("schema = 1\n[plugins]\ndisabled = ['backends']\n")
    refused(tw("compile", dense, "-o", out, "--config", tmp_path / "c.toml"), "target", "backends")


def test_a_folder_that_cannot_be_written(tw: Tw, dense: Path, tmp_path: Path) -> None:
    refused(tw("compile", dense, "-o", tmp_path / "no" / "such" / "x.tw"), "cannot be written", "folder")


@pytest.mark.parametrize("command", ["run", "inspect", "explain"])
def test_a_corrupt_artifact(tw: Tw, dense: Path, tmp_path: Path, command: str) -> None:
    good = tmp_path / "good.tw"
    assert tw("compile", dense, "-o", good).code == 0
    data = good.read_bytes()
    (tmp_path / "cut.tw").write_bytes(data[: len(data) // 2])
    refused(tw(command, tmp_path / "cut.tw"), "cut.tw")
    (tmp_path / "changed.tw").write_bytes(data.replace(b"decisions.json", b"decisiens.json", 1))
    refused(tw(command, tmp_path / "changed.tw"), "changed.tw", "damaged")


def test_an_artifact_whose_code_was_changed_is_not_run(tw: Tw, dense: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.tw"
    assert tw("compile", dense, "-o", good).code == 0
    data = good.read_bytes()
    (tmp_path / "bad.tw").write_bytes(data.replace(b"\x7fELF", b"\x7fELG", 1))
    refused(tw("run", tmp_path / "bad.tw"), "library.so", "damaged")


@pytest.mark.parametrize(
    "option",
    [["--target", "cpu"], ["--config", "c.toml"], ["--shape", "x=3x6"], ["--no-cache"], ["--strict"]],
    ids=lambda option: option[0],
)
def test_an_option_of_a_compilation_for_a_compiled_artifact(
    tw: Tw, dense: Path, tmp_path: Path, option: list[str]
) -> None:
    good = tmp_path / "good.tw"
    assert tw("compile", dense, "-o", good).code == 0
    words = ["good.tw", "compiled already", option[0], "ONNX model"]
    refused(tw("run", good, *option), *words)
    refused(tw("explain", good, *option), *words)
    refused(tw("compare", dense, "--artifact", good, *option), *words)
    assert tw("run", good, "--threads", 1, "--seed", 3).code == 0


def test_options_that_explain_would_not_heed_are_all_named(tw: Tw, dense: Path, tmp_path: Path) -> None:
    assert tw("compile", dense, "-o", tmp_path / "good.tw").code == 0
    result = tw("explain", tmp_path / "good.tw", "--threads", 2, "--shape", "x=3x6", "--no-cache")
    refused(result, "--shape", "--no-cache", "--threads", "Leave them out")


def test_a_wrong_number_of_threads(tw: Tw, dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", "many")
    refused(tw("run", dense), "TILEWRIGHT_NUM_THREADS", "'many'")


def test_a_light_model_that_does_not_exist(tw: Tw, out: Path) -> None:
    refused(tw("compile", "light:resnet5", "-o", out), "resnet5", "resnet50")


def test_a_study_without_a_study(tw: Tw, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("schema = 1\n")
    refused(tw("ablate", tmp_path / "s.toml"), "s.toml", "[study]")
    (tmp_path / "s.toml").write_text("schema = 1\n[study]\n")
    refused(tw("ablate", tmp_path / "s.toml"), "models")


def test_a_cache_that_others_can_reach(
    tw: Tw, dense: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "open"))
    refused(tw("compile", dense, "-o", out), "chmod 700", "--no-cache")


def test_errors_in_json_mode_go_to_stderr(tw: Tw) -> None:
    result = tw("inspect", "/no/such", "--json")
    refused(result)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(result.out)


def test_a_loop_that_makes_as_much_as_data_say_is_named(tw: Tw, tmp_path: Path, out: Path) -> None:
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["on"]), helper.make_node("Neg", ["i"], ["row"])],
        "body",
        [number, going],
        [helper.make_tensor_value_info(n, t, []) for n, t in (("on", TensorProto.BOOL), ("row", TensorProto.INT64))],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["k", ""], ["rows"], name="the loop", body=body)],
        "g",
        [helper.make_tensor_value_info("k", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "loop.onnx")
    words = ("Loop", "the loop", "rows", "'k'", "--bind k=FILE", "--no-jit")
    refused(tw("compile", tmp_path / "loop.onnx", "-o", out, "--no-jit"), *words)
