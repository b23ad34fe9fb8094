"""The command line in this process, on small models that the CPU backend really compiles."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from attrs import frozen
from onnx import helper

from tests.product.models import save_model
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
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run(cli, [str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


@pytest.fixture(scope="session")
def picks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of x where a relu is not zero."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("NonZero", ["r"], ["n"], name="where"),
        helper.make_node("Transpose", ["n"], ["t"], perm=[1, 0]),
        helper.make_node("GatherND", ["x", "t"], ["y"]),
    ]
    folder = tmp_path_factory.mktemp("models")
    return save_model(folder / "picks.onnx", nodes, {"x": ("rows", 3)}, {"y": ("found",)})
