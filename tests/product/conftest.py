"""The command line in this process, on small models that the CPU backend really compiles."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from attrs import frozen
from onnx import TensorProto, helper, numpy_helper

from tilewright.cli.app import cli
from tilewright.cli.base import run


@frozen
class Result:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Tw = Callable[..., Result]


@pytest.fixture
def tw(capfd: pytest.CaptureFixture[str]) -> Iterator[Tw]:
    """`tilewright ARGUMENTS`, in this process."""
    logger = logging.getLogger("tilewright")
    before = (logger.handlers[:], logger.level, logger.propagate)
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run(cli, [str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    yield call
    signal.signal(signal.SIGTERM, handler)
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save_model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    opsets: Sequence[onnx.OperatorSetIdProto] = (),
) -> Path:
    """Writes a float model."""
    graph = helper.make_graph(
        list(nodes),
        path.stem,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    opset_imports = [helper.make_opsetid("", 17), *opsets]
    onnx.save(helper.make_model(graph, opset_imports=opset_imports, ir_version=8), path)
    return path


W = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = softmax(relu(x @ w))."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Softmax", ["b"], ["y"]),
    ]
    return save_model(tmp_path_factory.mktemp("models") / "dense.onnx", nodes, {"x": (3, 6)}, {"y": (3, 4)}, {"w": W})


@pytest.fixture(scope="session")
def symbolic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = relu(x) for any number of rows."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    folder = tmp_path_factory.mktemp("models")
    return save_model(folder / "symbolic.onnx", nodes, {"x": ("rows", 4)}, {"y": ("rows", 4)})
