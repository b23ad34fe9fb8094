"""The command line around the compiler: output, exit codes, laziness. End-to-end runs are in tests/."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tilewright.cli import app, base
from tilewright.cli.output import harmless
from tilewright.errors import InputError, MismatchError
from tilewright.sizes import size_text

NASTY = '*/ [red]"<script>../\x1b[31m\n\u202e'
COMMANDS = sorted(app._COMMANDS)
MAIN = "from tilewright.cli import main; main()"


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(tw: Callable[..., Any], name: str) -> None:
    result = tw(name, "--help")
    assert result.code == 0
    assert "Usage: tilewright" in result.out
    listed = tw("--help").out
    assert name in listed
    assert app._COMMANDS[name][1] in " ".join(listed.split())


@pytest.mark.parametrize("name", ["compile", "run"])
def test_help_says_that_an_artifact_is_code(tw: Callable[..., Any], name: str) -> None:
    assert "native code" in " ".join(tw(name, "--help").out.split())
    assert "only run artifacts that you trust" in " ".join(tw("--help").out.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins", "list"], ["cache", "path"], ["doctor"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from tilewright.cli.app import cli; from tilewright.cli.base import run; "
        f"code = run(cli, {arguments!r}); "
        "heavy = [m for m in sys.modules if m.split('.')[0] in "
        "('tvm', 'tvm_ffi', 'onnx', 'torch', 'onnxruntime', 'tilewright_backends', 'tilewright_roller')]; "
        "print('HEAVY', heavy, code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY [] 0" in result.stdout


def test_inspecting_an_artifact_imports_no_backend(artifact: Path) -> None:
    script = (
        "import sys; from tilewright.cli.app import cli; from tilewright.cli.base import run; "
        f"code = run(cli, ['inspect', {str(artifact)!r}]); "
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('tvm', 'tvm_ffi', 'onnx', 'tilewright_backends')]; "
        "print('HEAVY', heavy, code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY [] 0" in result.stdout


def test_version_names_plugins_and_tvm() -> None:
    out = process("--version").stdout
    for word in ("tilewright 0.", "apache-tvm ", "apache-tvm-ffi ", "onnx "):
        assert word in out


def test_import_of_the_package_loads_nothing() -> None:
    script = "import sys, tilewright; print(sorted({m.split('.')[0] for m in sys.modules} & {'tvm', 'onnx', 'numpy'}))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_inspect_shows_names_harmlessly(tw: Callable[..., Any], artifact: Path) -> None:
    result = tw("inspect", artifact)
    assert result.code == 0
    assert '*/ [red]"<script>../\\x1b[31m\\n\\u202e' in result.out
    assert "\x1b" not in result.out
    assert "\u202e" not in result.out
    data = json.loads(tw("inspect", artifact, "--json").out)
    assert data["inputs"][0]["name"] == NASTY
    assert data["kernels"] == 2


def test_explain_shows_names_harmlessly(tw: Callable[..., Any], artifact: Path) -> None:
    result = tw("explain", artifact)
    assert result.code == 0
    assert "[red]" in result.out
    assert "\x1b" not in result.out
    assert json.loads(tw("explain", artifact, "--json").out)[0]["why"] == NASTY
    assert json.loads(tw("explain", artifact, "--json", "--slot", "propose").out) == []


@pytest.mark.parametrize("name", ["path", "no-such-command"])
def test_a_command_leaves_logging_as_it_was(tw: Callable[..., Any], name: str) -> None:
    logger = logging.getLogger("tilewright")
    before = (logger.handlers[:], logger.level, logger.propagate)
    tw("cache", name, "-vv")
    assert (logger.handlers[:], logger.level, logger.propagate) == before
    assert not logger.isEnabledFor(logging.DEBUG)


def test_an_error_names_things_harmlessly(tw: Callable[..., Any]) -> None:
    result = tw("inspect", "/no/such/\x1b[31mfile[red]")
    assert result.code == 2
    assert result.err.startswith("error: Artifact /no/such/\\x1b[31mfile[red] cannot be read")
    assert result.out == ""


def test_a_provider_that_is_not_installed_is_named(tw: Callable[..., Any], artifact: Path) -> None:
    result = tw("run", artifact, "--json")
    assert result.code in (2, 3)
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("It is wrong.", "Do better."), 2, ["error: It is wrong.", "Do better."]),
        (MismatchError("They differ."), 1, ["They differ."]),
        (ZeroDivisionError("oops"), 3, ["internal error: ZeroDivisionError: oops", "--debug"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (click.UsageError("no such thing"), 2, ["no such thing"]),
    ],
)
def test_exit_codes(
    tw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: list[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("tilewright.cli.cache.cache_folder", fail)
    result = tw("cache", "path")
    assert result.code == code
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err
    assert ("Traceback" in tw("cache", "path", "--debug").err) == isinstance(
        error, InputError | MismatchError | ZeroDivisionError
    )


def test_a_wrong_option_or_command_exits_with_2(tw: Callable[..., Any]) -> None:
    assert tw("no-such-command").code == 2
    assert tw("cache", "path", "--no-such-option").code == 2
    assert tw("compile").code == 2


def test_the_cache_commands(tw: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    assert tw("cache", "path").out.strip() == str(tmp_path / "cache")
    assert json.loads(tw("cache", "list", "--json").out) == []
    (tmp_path / "cache" / ("a" * 64)).write_bytes(b"12345")
    assert json.loads(tw("cache", "list", "--json").out)[0]["bytes"] == 5
    assert "aaaaaaaaaaaaaaaa" in tw("cache", "list").out
    assert json.loads(tw("cache", "clear", "--json").out) == {"freed_bytes": 5}
    assert json.loads(tw("cache", "list", "--json").out) == []


def test_doctor_finds_a_cache_that_others_can_reach(
    tw: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
    result = tw("doctor", "--json")
    assert result.code == 2
    (check,) = [c for c in json.loads(result.out) if c["what"] == "cache"]
    assert check["state"] == "bad"
    assert "chmod 700" in check["remedy"]


def test_a_broken_plugin_is_shown(tw: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "acme_broken-2.5.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[tilewright.plugins]\nacme_cli = acme_broken_cli\n")
    (tmp_path / "acme_broken_cli.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    listed = tw("plugins", "list", "--json")
    assert listed.code == 0
    assert {
        "name": "acme_cli",
        "distribution": "acme-broken",
        "version": "2.5",
        "module": "acme_broken_cli",
    } in json.loads(listed.out)["plugins"]
    assert "acme_broken_cli" not in sys.modules
    checked = tw("plugins", "check", "--json")
    assert checked.code == 2
    (failure,) = [f for f in json.loads(checked.out)["unusable"] if f["plugin"] == "acme_cli"]
    assert failure["cause"] == "RuntimeError: boom"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(tw: Callable[..., Any], shell: str) -> None:
    assert "_TILEWRIGHT_COMPLETE" in tw("completion", shell).out


def test_completion_completes_commands() -> None:
    env = {**os.environ, "_TILEWRIGHT_COMPLETE": "bash_complete", "COMP_WORDS": "tilewright comp", "COMP_CWORD": "1"}
    out = process(env=env).stdout
    assert "compile" in out
    assert "compare" in out


def test_no_color_and_pipes_get_plain_text(artifact: Path) -> None:
    assert "\x1b" not in process("inspect", str(artifact)).stdout

    def on_terminal(environment: dict[str, str]) -> str:
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", MAIN, "plugins", "list"],
            stdout=slave,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        ) as running:
            os.close(slave)
            running.wait()
        data = os.read(master, 1 << 16).decode()
        os.close(master)
        return data

    assert "\x1b[" in on_terminal({})
    assert "\x1b[3" not in on_terminal({"NO_COLOR": "1"})


def test_a_closed_pipe_is_no_error() -> None:
    result = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{MAIN}" plugins check | head -1; echo "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_terminating_the_process_is_an_exception_inside() -> None:
    with pytest.raises(SystemExit) as caught:
        base._terminated(15, None)
    assert caught.value.code == 143


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ‖a-b‖ µs", "plain ‖a-b‖ µs"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("\udc80", "\\udc80"),
    ],
)
def test_harmless(text: str, safe: str) -> None:
    assert harmless(text) == safe
    harmless(text).encode()


def test_sizes() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 1536 << 10, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "3.0 GiB",
    ]
