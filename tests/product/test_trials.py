"""Trials of a planner: compiled and measured in workers, once, also across sessions, and failures not at all."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tilewright.api import compile_artifact, settings_for
from tilewright.compiler import load_module, plan_module
from tilewright.config.binding import Settings
from tilewright.errors import InputError
from tilewright.planning import trial
from tilewright.planning.session import Session
from tilewright.planning.trial import CodeFacts, Failure, Samples
from tilewright.trials import CachedTrials

Plan = Callable[..., list[Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of workers, a word per choice."""
    words: list[str] = []

    def ask(action: str, target: str, group: Any, choices: Any, *rest: Any) -> list[Any]:
        words.extend([action] * len(choices))
        return real(action, target, group, choices, *rest)

    real = trial.ask
    monkeypatch.setattr(trial, "ask", ask)
    return words


@pytest.fixture
def plan(dense: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    """Plans the model with a connector that tries two choices for the first group, and gives what it was told."""
    service = Settings.service

    def call(kind: str, target: str = "cpu", stored: bool = True, **config: Any) -> list[Any]:
        told: list[Any] = []

        def trying(self: Settings, slot: str) -> Any:
            inner = service(self, slot)
            if slot != "connect":
                return inner

            def connect(region: Any, request: Any) -> Any:
                cover = inner(region, request)
                session: Session = request.session
                group = cover.groups[0]
                told.extend(getattr(session, kind)(group, session.propose(group)[:2]))
                return cover

            return connect

        monkeypatch.setattr(Settings, "service", trying)
        settings = settings_for(target, config)
        module = load_module(str(dense), settings)
        plan_module(module, attrs.evolve(settings, keep_trials=stored))
        return told

    yield call
    monkeypatch.setattr(Settings, "service", service)


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if len(path.name) == 64] if cache.exists() else []


def test_a_trial_is_built_once_for_all_sessions(plan: Plan, cache: Path, asked: list[str]) -> None:
    first = plan("build")
    assert all(isinstance(facts, CodeFacts) and facts.seconds > 0 for facts in first)
    assert asked == ["build", "build"]
    assert len(entries(cache)) == 2
    assert plan("build") == first
    assert asked == ["build", "build"]
    # Another target is another question, and without the store everything is.
    plan("build", target="cpu:x86-64-v2")
    assert len(asked) == 4
    plan("build", stored=False)
    assert len(asked) == 6


def test_a_measurement_belongs_to_its_machine_and_threads(
    plan: Plan, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", "1")
    first = plan("measure")
    assert all(isinstance(samples, Samples) and samples.median > 0 for samples in first)
    assert plan("measure") == first
    assert asked == ["measure", "measure"]
    monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", "2")
    plan("measure")
    assert len(asked) == 4
    monkeypatch.setattr("platform.node", lambda: "another")
    plan("measure")
    assert len(asked) == 6


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_result_is_found_out_again(
    plan: Plan, cache: Path, asked: list[str], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = plan("build")
    for path in entries(cache):
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-9], "changed": data.replace(b"seconds", b"secands"), "other": b"[1]"}[damage])
    second = plan("build")
    assert asked == ["build"] * 4
    assert [attrs.evolve(x, seconds=0) for x in first] == [attrs.evolve(x, seconds=0) for x in second]
    assert "damaged" in caplog.text
    plan("build")
    assert asked == ["build"] * 4


def test_a_failure_is_not_kept(plan: Plan, cache: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setenv("CC", "/no/such/compiler")
        assert all(isinstance(x, Failure) and "/no/such/compiler" in x.reason for x in plan("build"))
    assert not entries(cache)
    assert all(isinstance(x, CodeFacts) for x in plan("build"))
    assert asked == ["build"] * 4


def planted_compiler(monkeypatch: pytest.MonkeyPatch, path: Path, lines: str) -> None:
    """A stand-in for the C compiler that runs some shell before it becomes the real one."""
    real = shutil.which(os.environ.get("CC", "cc"))
    path.write_text(f'#!/bin/sh\n{lines}\nexec {real} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))


def test_builders_work_side_by_side(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither compiler goes on before that of another worker is there."""
    there = tmp_path / "there"
    there.mkdir()
    meet = f"touch {there}/$PPID\nwhile [ $(ls {there} | wc -l) -lt 2 ]; do sleep 0.05; done"
    planted_compiler(monkeypatch, tmp_path / "compiler", meet)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert [type(x) for x in plan("build")] == [CodeFacts, CodeFacts]
    assert len(list(there.iterdir())) == 2


def test_a_builder_that_dies_costs_one_choice(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first compiler ends the worker that started it; what is left is built and measured."""
    die = f"mkdir {tmp_path}/once 2> {tmp_path}/said && kill -9 $PPID && sleep 600"
    planted_compiler(monkeypatch, tmp_path / "compiler", die)
    answers = plan("measure")
    assert sorted(type(x).__name__ for x in answers) == ["Failure", "Samples"]
    assert any("SIGKILL" in x.reason for x in answers if isinstance(x, Failure))


ROLLER = {"slots": {"propose": "roller"}, "options": {"roller": {"measure": 2}}}


def test_roller_takes_the_quickest_that_it_measured(
    dense: Path, cache: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {}

    def measure(self: Session, group: Any, choices: Any) -> Any:
        seen[group.name] = real(self, group, choices)
        return seen[group.name]

    real = Session.measure
    monkeypatch.setattr(Session, "measure", measure)
    monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", "1")
    settings = attrs.evolve(settings_for("cpu", ROLLER), keep_trials=True)
    module = load_module(str(dense), settings)
    first = plan_module(module, settings)
    decisions = {x.subject: x for x in first.decisions if x.slot == "propose"}
    assert set(seen) == set(decisions)
    assert len(asked) == sum(map(len, seen.values())) > len(seen)
    for name, samples in seen.items():
        medians = sorted(x.median for x in samples)
        assert list(decisions[name].costs[: len(samples)]) == medians
        assert decisions[name].why.startswith(f"measured {medians[0] * 1e6:.1f} µs, predicted ")
    # Another compilation takes what the cache has.
    known = len(asked)
    assert plan_module(module, settings).program == first.program
    assert len(asked) == known


def test_roller_measures_nothing_where_the_device_is_not(dense: Path, asked: list[str]) -> None:
    settings = settings_for("cuda:v100", ROLLER)
    module = load_module(str(dense), settings)
    with pytest.raises(InputError, match=r"measurements on cuda:v100.* sm_70.*Set measure = 0") as caught:
        plan_module(module, settings)
    assert caught.value.exit_code == 2
    assert not asked


def test_roller_goes_by_the_model_where_shapes_are_open(symbolic: Path, asked: list[str]) -> None:
    settings = settings_for("cpu", ROLLER)
    found = plan_module(load_module(str(symbolic), settings, {"rows": range(1, 9)}), settings)
    assert [x.slot for x in found.decisions].count("propose") == 1
    assert not asked


def test_compiling_keeps_trials_unless_the_cache_is_off(
    dense: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def connect(self: Session, region: Any) -> Any:
        seen.append(self.trials)
        return real(self, region)

    real = Session.connect
    monkeypatch.setattr(Session, "connect", connect)
    for use in (True, False):
        artifact, _ = compile_artifact(str(dense), settings_for("cpu", None), cache=use)
        artifact.close()
    assert [type(x) for x in seen] == [CachedTrials, type(None)]


def test_a_compiler_that_hangs_is_ended_with_its_worker_and_all_it_started(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for the C compiler starts another program, as compilers do, and both sleep."""
    numbers, compiler = tmp_path / "numbers", tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > {numbers}.new\nmv {numbers}.new {numbers}\nwait\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    failed: list[str] = []

    def measured(self: Session, region: Any) -> Any:
        cover = connect(self, region)
        group = cover.groups[0]
        ending = threading.Thread(target=end_when_compiling, args=(self,))
        ending.start()
        failed.extend(x.reason for x in self.build(group, self.propose(group)[:1]) if isinstance(x, Failure))
        ending.join()
        return cover

    def end_when_compiling(session: Session) -> None:
        deadline = time.monotonic() + 120
        while not numbers.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        pids = [int(pid) for pid in numbers.read_text().split()]
        assert all(map(alive, pids))
        os.kill(parent_of(pids[0]), signal.SIGKILL)

    connect = Session.connect
    monkeypatch.setattr(Session, "connect", measured)
    settings = settings_for("cpu", None)
    plan_module(load_module(str(dense), settings), settings)
    assert len(failed) == 1
    assert "SIGKILL" in failed[0]
    assert not any(map(alive, (int(pid) for pid in numbers.read_text().split())))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
