"""Names from a model are arbitrary text, plugins may be broken, and people press Ctrl-C."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tilewright
from tilewright.artifact import Artifact

Tw = Callable[..., Any]
MAIN = "from tilewright.cli import main; main()"
NASTY = '*/ [red]"<script>../'
WORSE = '*/ "; system("touch owned"); /* \\ %s $(touch owned) \x1b[31m\n\u202e'


@pytest.fixture(params=[NASTY, WORSE], ids=["issue", "worse"])
def nasty(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A model in which every name is nasty."""
    name = request.param
    x, w, a, y = (f"{name}{suffix}" for suffix in ("x", "w", "a", "y"))
    nodes = [
        helper.make_node("MatMul", [x, w], [a], name=name),
        helper.make_node("Relu", [a], [y], name=f"{name}2"),
    ]
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), w)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [3, 6])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [3, 4])],
        [weight],
    )
    path = tmp_path / "nasty.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, name


def test_names_never_reach_paths_source_or_the_terminal(
    tw: Tw, nasty: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, name = nasty
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert tw("compile", model, "-o", "n.tw", "-vv").code == 0
    commands = {
        "compare": tw("compare", model, "--no-cache"),
        "run": tw("run", "n.tw", "--save-outputs", "out"),
        "inspect": tw("inspect", "n.tw"),
        "explain": tw("explain", "n.tw"),
        "bench": tw("bench", model, "--rounds", 1, "--seconds", 0.01),
    }
    for command, result in commands.items():
        assert result.code == 0, (command, result.err)
        for character in ("\x1b", "\u202e"):
            assert character not in result.out + result.err, command
    assert "[red]" in commands["inspect"].out or name == WORSE
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {"n.tw", *(f for f in files if f.startswith("out/0_"))}
    assert len(files) == 2

    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    (expected,) = ReferenceEvaluator(str(model)).run(None, {f"{name}x": x})
    with tilewright.load("n.tw") as program:
        (y,) = program.run([f"{name}y"], {f"{name}x": x})
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    with Artifact("n.tw") as artifact:
        assert b"script" not in artifact.read("library.so")
        assert b"system" not in artifact.read("library.so")


def assert_nothing_of(name: str, text: str) -> None:
    """`text` is plain ASCII, and no word of the nasty name is in it."""
    assert text.isascii()
    assert not {"script", "red", "touch", "owned", "system"} & set(re.findall(r"[a-z]+", text)), name
    assert text.count("*/") == text.count("/*")


def test_names_never_reach_cuda_source(
    tw: Tw, nasty: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, name = nasty
    compiler = importlib.import_module("tilewright_backends.build.cuda.builder")
    written: dict[str, bytes] = {}

    def compile_source(source: str, arch: str, workdir: Path) -> Any:
        compiled = cuda_compile(source, arch, workdir)
        written["source"] = source.encode()
        return compiled

    def link(host: Any, modules: bytes, path: Path, workdir: Path, helper: str = "") -> None:
        cuda_link(host, modules, path, workdir, helper)
        written.update((str(file.relative_to(workdir)), file.read_bytes()) for file in workdir.rglob("*"))

    cuda_compile, cuda_link = compiler.compile_source, compiler.link
    monkeypatch.setattr(compiler, "compile_source", compile_source)
    monkeypatch.setattr(compiler, "link", link)
    monkeypatch.chdir(tmp_path)
    result = tw("compile", model, "-o", "n.tw", "--target", "cuda:h200", "--no-cache", "-vv")
    assert result.code == 0, result.err
    source = written["source"].decode()
    assert "__global__" in source
    assert_nothing_of(name, source)
    for file, data in written.items():
        assert re.fullmatch(r"[A-Za-z0-9_.]+", file)
        assert b"script" not in data
        assert b"touch" not in data
    shown = [result, tw("inspect", "n.tw"), tw("explain", "n.tw"), tw("explain", model, "--target", "cuda:v100")]
    for found in shown:
        assert found.code == 0
        assert "\x1b" not in found.out + found.err
        assert "\u202e" not in found.out + found.err
    assert {p.name for p in tmp_path.iterdir()} == {"n.tw", "nasty.onnx"}


def test_names_never_reach_cpu_code(nasty: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, name = nasty
    llvm = importlib.import_module("tilewright_backends.build.llvm")
    written: list[str] = []

    def compile_functions(functions: Any, target: Any) -> Any:
        compiled = llvm_compile(functions, target)
        written.extend([*(x.name_hint for x in functions), compiled.mod.inspect_source()])
        return compiled

    def run_tool(command: list[str]) -> Any:
        written.extend(Path(part).name for part in command)
        return tool(command)

    llvm_compile, tool = llvm.compile_functions, llvm.run_tool
    monkeypatch.setattr(llvm, "compile_functions", compile_functions)
    monkeypatch.setattr(llvm, "run_tool", run_tool)
    tilewright.compile(onnx.load(model), cache=False).close()
    assert any("define " in text for text in written)
    for text in written:
        assert_nothing_of(name, text)


def test_a_terminal_does_not_act_on_names(nasty: tuple[Path, str], tmp_path: Path) -> None:
    """With a real terminal, where markup and colours would be shown."""
    model, name = nasty
    for command in (["compile", str(model), "-o", "n.tw", "-vv"], ["inspect", "n.tw"], ["explain", "n.tw"]):
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", MAIN, *command],
            stdout=slave,
            stderr=slave,
            cwd=tmp_path,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "400"},
        ) as running:
            os.close(slave)
            text = _everything(master)
        assert running.returncode == 0
        # What the program itself sends: bold, and the moves of the line that shows progress.
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
        if command[0] == "inspect" and name == NASTY:
            assert '*/ [red]"<script>../x' in text


def _everything(descriptor: int) -> str:
    data = b""
    while True:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except OSError:  # how a pseudo-terminal says that nobody writes any more
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return data.decode()
        data += chunk


def test_an_error_about_a_nasty_name_is_harmless(tw: Tw, nasty: tuple[Path, str]) -> None:
    model, _ = nasty
    changed = onnx.load(model)
    changed.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(changed, model)
    result = tw("compile", model, "-o", model.parent / "x.tw")
    assert result.code == 2
    assert "NoSuchOperator" in result.err
    assert "\x1b" not in result.err
    assert "\u202e" not in result.err


@pytest.fixture
def broken_plugin(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which a plugin raises when it is imported."""
    site = tmp_path / "site"
    info = site / "acme_broken-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[tilewright.plugins]\nbroken = acme_broken_module\n")
    (site / "acme_broken_module.py").write_text("raise RuntimeError('boom \\x1b[31m')\n")
    return {**os.environ, "PYTHONPATH": str(site)}


def test_a_plugin_that_raises_is_named_and_does_not_stop_a_compile(
    dense: Path, tmp_path: Path, broken_plugin: dict[str, str]
) -> None:
    def compile_(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MAIN, "compile", str(dense), "-o", str(tmp_path / "x.tw"), *options]
        return subprocess.run(command, env=broken_plugin, capture_output=True, text=True, check=False)

    result = compile_()
    assert result.returncode == 0
    for word in ("broken", "acme-broken", "2.5", "RuntimeError: boom"):
        assert word in result.stderr
    assert "\x1b" not in result.stderr
    (tmp_path / "x.tw").unlink()
    strict = compile_("--strict")
    assert strict.returncode == 2
    for word in ("broken", "acme-broken", "2.5", "RuntimeError: boom", "--strict"):
        assert word in strict.stderr
    assert not (tmp_path / "x.tw").exists()


def _descendants(pid: int) -> list[int]:
    # Of all threads: workers are not started by the main one.
    children = [c for x in Path(f"/proc/{pid}/task").glob("*/children") for c in x.read_text().split()]
    return [int(c) for c in children] + [d for c in children for d in _descendants(int(c))]


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_workers(dense: Path, sent: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", MAIN, "bench", str(dense), "--rounds", "1", "--seconds", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        workers: list[int] = []
        while len(workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            workers = _descendants(running.pid)
        assert len(workers) >= 2
        running.send_signal(sent)
        _, err = running.communicate(timeout=30)
    assert running.returncode == code
    assert "Traceback" not in err
    if sent is signal.SIGINT:
        assert "interrupted" in err
    assert all(_gone(worker) for worker in workers)


INTERRUPTED_AT = """
import fnmatch, os, signal, sys

def interrupt(event, arguments, sent=[]):
    if not sent and event == {event!r} and fnmatch.fnmatch(str(arguments[0]), {pattern!r}):
        sent.append(event)
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
"""


@pytest.mark.parametrize(
    ("event", "pattern"),
    [
        ("import", "tilewright.cli.app"),
        ("import", "click"),
        ("import", "tilewright.api"),
        ("import", "numpy"),
        ("import", "onnx"),
        ("import", "tvm"),
        ("subprocess.Popen", "*"),
        ("open", "*/cache/*.partial"),
        ("os.rename", "*/cache/*"),
        ("open", "*/out/*"),
        ("os.rename", "*/out/*"),
    ],
)
def test_an_interrupt_leaves_no_partial_file(dense: Path, tmp_path: Path, event: str, pattern: str) -> None:
    """The interrupt comes while the program does what Python's audit event says."""
    out = tmp_path / "out"
    out.mkdir()
    script = INTERRUPTED_AT.format(event=event, pattern=pattern) + MAIN
    command = [sys.executable, "-c", script, "compile", str(dense), "-o", str(out / "x.tw")]
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "TILEWRIGHT_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.strip(), result.stdout) == (130, "interrupted", "")
    assert not list(out.iterdir())
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "cache").glob(".*"))


def test_an_interrupt_that_a_shell_ignores_stays_ignored(dense: Path, tmp_path: Path) -> None:
    script = INTERRUPTED_AT.format(event="import", pattern="onnx") + MAIN
    command = [sys.executable, "-c", script, "compile", str(dense), "-o", str(tmp_path / "x.tw")]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    assert subprocess.run(ignoring, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "x.tw").exists()


def test_the_compiler_is_called_without_a_shell(
    tw: Tw, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a; touch owned #"
    folder.mkdir()
    (folder / "m$(touch owned).onnx").write_bytes(dense.read_bytes())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    result = tw("compile", folder / "m$(touch owned).onnx", "-o", folder / "x.tw", "--no-cache", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["artifact"].endswith("x.tw")
    assert sorted(p.name for p in folder.iterdir()) == ["m$(touch owned).onnx", "x.tw"]
