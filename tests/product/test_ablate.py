"""Studies, end to end on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tw = Callable[..., Any]

STUDIES = Path(__file__).parents[2] / "benchmarks/studies"
STUDY = """
schema = 1
target = "cpu"
[study]
design = "{design}"
models = ["{model}"]
rounds = 2
seconds = 0.02
[study.factors]
connect = {{ off = {{ connect = "singletons" }} }}
checks = {{ off = {{ "verify.level" = "off" }} }}
"""


@pytest.fixture
def study(tmp_path: Path, dense: Path) -> Callable[..., Path]:
    def write(text: str = STUDY, design: str = "power-set", model: str = "dense.onnx") -> Path:
        (tmp_path / "dense.onnx").write_bytes(dense.read_bytes())
        (tmp_path / "study.toml").write_text(text.format(design=design, model=model))
        return tmp_path / "study.toml"

    return write


def arms_of(result: Any) -> dict[str, dict[str, Any]]:
    (model,) = json.loads(result.out)["models"]
    return {arm["arm"]: arm for arm in model["arms"]}


def test_a_power_set_with_equal_plans_said_to_be_equal(tw: Tw, study: Callable[..., Path], tmp_path: Path) -> None:
    result = tw("ablate", study(), "--json", "--jobs", "2", "-o", tmp_path / "report.json")
    assert result.code == 0, result.err
    arms = arms_of(result)
    assert list(arms) == [
        "connect=on checks=on",
        "connect=on checks=off",
        "connect=off checks=on",
        "connect=off checks=off",
    ]
    assert {arm["state"] for arm in arms.values()} == {"ok"}
    # Whether verifiers run changes no program, which operators share a kernel does.
    assert arms["connect=on checks=off"]["same_as"] == "connect=on checks=on"
    assert arms["connect=off checks=off"]["same_as"] == "connect=off checks=on"
    assert arms["connect=off checks=on"]["same_as"] == ""
    assert arms["connect=off checks=on"]["kernels"] > arms["connect=on checks=on"]["kernels"]
    for arm in arms.values():
        assert arm["median_seconds"] > 0
        assert len(arm["samples"]) >= 6
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(result.out)


def test_the_table(tw: Tw, study: Callable[..., Path]) -> None:
    result = tw("ablate", study(design="leave-one-out"))
    assert result.code == 0, result.err
    assert "same program as connect=on checks=on" in result.out
    assert "onnxruntime" in result.out
    assert "connect=off checks=on" in result.out


def test_a_failed_arm_is_shown_and_the_others_go_on(tw: Tw, study: Callable[..., Path]) -> None:
    text = STUDY + 'broken = {{ off = {{ connect = "no-such-value" }} }}\n'
    result = tw("ablate", study(text, design="leave-one-out"), "--json")
    assert result.code == 2
    arms = arms_of(result)
    broken = arms.pop("connect=on checks=on broken=off")
    assert broken["state"] == "failed"
    assert "no-such-value" in broken["why"]
    assert broken["median_seconds"] is None
    assert {arm["state"] for arm in arms.values()} == {"ok"}


def test_an_arm_that_takes_too_long_is_shown(tw: Tw, study: Callable[..., Path]) -> None:
    text = STUDY.replace("rounds = 2", "rounds = 2\ntime_limit = 0.001")
    result = tw("ablate", study(text), "--json", "--no-cache")
    assert result.code == 2
    for arm in arms_of(result).values():
        assert arm["state"] == "failed"
        assert "longer than" in arm["why"]


def test_a_sweep(tw: Tw, study: Callable[..., Path]) -> None:
    text = STUDY.split("[study.factors]", maxsplit=1)[0] + '[study.sweep]\n"target" = ["cpu", "cpu:x86-64-v3"]\n'
    result = tw("ablate", study(text), "--json")
    assert result.code == 0, result.err
    arms = arms_of(result)
    assert list(arms) == ["target=cpu", "target=cpu:x86-64-v3"]
    assert arms["target=cpu:x86-64-v3"]["same_as"] == ""


LIAR = """
import attrs
from tilewright.plugins import Pass, hookimpl

TILEWRIGHT_API = 1

def lie(module, context):
    constants = {n: attrs.evolve(c, data=c.data * 1.01) for n, c in module.constants.items()}
    return attrs.evolve(module, constants=constants)

@hookimpl
def tilewright_passes():
    yield Pass("liar.weights", lie, ("after.legalize",))
"""


def test_an_arm_whose_results_differ_is_shown_and_not_timed(
    tw: Tw, study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "liar-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[tilewright.plugins]\nliar = liar_of_this_test\n")
    (tmp_path / "site" / "liar_of_this_test.py").write_text(LIAR)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    text = STUDY.split("[study.factors]", maxsplit=1)[0]
    text += '[study.factors]\nhonest = {{ off = {{ "passes.after.legalize" = ["liar.weights"] }} }}\n'
    result = tw("ablate", study(text), "--json")
    assert result.code == 1, result.out
    arms = arms_of(result)
    assert arms["honest=on"]["state"] == "ok"
    assert arms["honest=off"]["state"] == "differs"
    assert arms["honest=off"]["error"] > 1e-3
    assert "output y" in arms["honest=off"]["why"]
    assert arms["honest=off"]["samples"] == []


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_our_own_studies_run(tw: Tw, dense: Path, file: Path) -> None:
    result = tw("ablate", file, "--model", dense, "--rounds", 1, "--seconds", 0.01, "--threads", 1, "--json")
    assert result.code == 0, result.err
    found = arms_of(result)
    assert len(found) == {"connect": 2, "rammer": 11, "techniques": 16, "welder": 4}[file.stem]
    assert all(arm["state"] == "ok" for arm in found.values())
