"""Running the command line in this process, and leaving no trace of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tilewright.artifact import Manifest, Step, TensorInfo, Variant, write_artifact
from tilewright.cli.app import cli
from tilewright.cli.base import run


@frozen
class Result:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def tw(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    monkeypatch.delenv("TILEWRIGHT_NUM_THREADS", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run(cli, [str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


NASTY = '*/ [red]"<script>../\x1b[31m\n\u202e'


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An artifact with nasty names, whose library is no library: it can be inspected, not run."""
    (tmp_path / "lib.so").write_bytes(b"not code")
    path = tmp_path / "m.tw"
    inputs = (TensorInfo(NASTY, "float32", (1, 3)),)
    outputs = (TensorInfo("y", "float32", (1, 3)),)
    variant = Variant("library.so", "decisions.json", inputs, outputs, kernels=2)
    step = Step("native", (NASTY,), ("y",), (variant,))
    manifest = Manifest("0.1.0", NASTY, "cpu:generic", "nobody", inputs, outputs, (step,))
    decision = {
        "slot": "connect",
        "subject": NASTY,
        "chosen": {"a": 1},
        "alternatives": [2],
        "costs": [1e-6, None],
        "why": NASTY,
    }
    libraries = {"library.so": tmp_path / "lib.so"}
    write_artifact(path, manifest, libraries, decisions={"decisions.json": [decision]})
    return path
