"""`tilewright selfcheck`: one report, in which whatever fails is found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.product.conftest import Tw
from tilewright.arrays import load_arrays, save_arrays
from tilewright.compiler import recipes_of
from tilewright.config import Config
from tilewright.config.binding import bind
from tilewright.plugins.manager import Registry
from tilewright.testing.seeded import light_names

SOME = ("--only", "kernel/*.scan")
QUICK = ("--seconds", "0.01")


def read(path: Path) -> dict[str, Any]:
    """A report. It is strict JSON: an infinity or NaN is an error."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda x: pytest.fail(x))
    return found


def test_a_report_says_what_was_computed_where(tw: Tw, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = tw("selfcheck", "-o", path, *SOME, *QUICK)
    assert result.code == 0, result.err
    report = read(path)
    assert [x["item"] for x in report["items"]] == ["kernel/cpu.scan"]
    assert report["counts"] == {"ok": 1, "differs": 0, "failed": 0}
    for item in report["items"]:
        assert item["kernels"] >= 1
        assert 0 < item["median_seconds"] <= max(item["samples"])
        assert [x["name"] for x in item["agreements"]] == item["outputs"]
        assert all(x["ok"] and x["norm_error"] < 1e-4 for x in item["agreements"])
    assert report["target"] == "cpu"
    assert report["device"]["device"]
    assert any(x.startswith("tilewright ") for x in report["versions"])
    assert {"Python", "apache-tvm"} <= {x["what"] for x in report["doctor"]}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three items."""
    from tilewright.bench.selfcheck import Check, chosen, prepare

    folder = tmp_path_factory.mktemp("prepared") / "folder"
    check = Check("cpu", None, 1)
    prepare(check, chosen(check, ("kernel/cpu.scan", "kernel/cpu.scatter", "control/0")), folder, lambda text: None)
    return folder


def test_what_was_compiled_before_is_run_and_failures_are_kept(tw: Tw, compiled: Path, tmp_path: Path) -> None:
    """One item gives other numbers than it should, one cannot be loaded, the third is fine."""
    folder, path = tmp_path / "folder", tmp_path / "report.json"
    shutil.copytree(compiled, folder)
    stored = load_arrays(folder / "0" / "outputs.safetensors")
    save_arrays(folder / "0" / "outputs.safetensors", [np.full_like(stored[0], np.nan), *stored[1:]])
    artifact = folder / "1" / "program.tw"
    artifact.write_bytes(artifact.read_bytes()[:-100])
    result = tw("selfcheck", "--prepared", folder, "-o", path, *QUICK)
    assert result.code == 1
    report = read(path)
    differs, failed, fine = report["items"]
    assert [x["state"] for x in report["items"]] == ["differs", "failed", "ok"]
    assert differs["agreements"][0]["norm_error"] is None
    assert "NaN" in differs["agreements"][0]["why"]
    assert failed["stage"] == "load"
    assert failed["error"]
    assert fine["item"] == "control/0"
    assert "NaN in other places" in result.out


def test_a_step_that_takes_too_long_is_a_failure_like_others(tw: Tw, compiled: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert tw("selfcheck", "--prepared", compiled, "-o", path, "--time-limit", "0.01").code == 1
    report = read(path)
    assert report["counts"]["failed"] == 3
    assert all(x["stage"] == "load" and "0.01" in x["error"] for x in report["items"])
    assert "error" in report["device"]


def test_machines_without_a_device_are_refused(tw: Tw, tmp_path: Path) -> None:
    """What is missing is what doctor says; no report pretends that anything was checked."""
    path = tmp_path / "report.json"
    result = tw("selfcheck", "--target", "rocm:gfx1100", "-o", path)
    assert result.code == 2
    lacking = [c for c in json.loads(tw("doctor", "--json").out) if c["step"] == "run" and "NVIDIA" not in c["what"]]
    assert {c["what"] for c in lacking} == {"AMD driver", "HIP runtime", "TVM runtime for ROCm"}
    for check in lacking:
        assert check["state"] == "ok" or (check["what"] in result.err and check["remedy"] in result.err)
    assert not path.exists()


@pytest.mark.slow
def test_programs_for_other_machines_are_prepared(tw: Tw, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    result = tw("selfcheck", "--target", "rocm:gfx1100", "--prepare", folder, "--only", "kernel/rocm.map")
    assert result.code == 0, result.err
    assert (folder / "0" / "program.tw").stat().st_size > 1000
    result = tw("selfcheck", "--prepared", folder)
    assert result.code == 2
    assert "HIP runtime" in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--prepare", "a", "--prepared", "b"), "one of the two"),
        (("--only", "kernel/cpu.nothing"), "kernel/cpu.scan"),
        (("--prepared", "no-such-folder"), "no-such-folder holds no self-check"),
        (("--target", "cpu:no-such"), "no-such"),
    ],
)
def test_what_makes_no_sense_is_refused(tw: Tw, arguments: tuple[str, ...], told: str) -> None:
    result = tw("selfcheck", *arguments)
    assert result.code == 2
    assert told in result.err


def test_what_is_prepared_has_its_target(tw: Tw, compiled: Path) -> None:
    result = tw("selfcheck", "--prepared", compiled, "--target", "cuda:h200")
    assert result.code == 2
    assert "compiled for cpu already" in result.err
    assert tw("selfcheck", "--prepare", compiled).code == 2


@pytest.mark.full
def test_the_whole_set_on_this_cpu(tw: Tw, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = tw("selfcheck", "-o", path, *QUICK)
    assert result.code == 0, result.err
    recipes = recipes_of(bind(Config(target="cpu"), Registry()))
    wanted = {*(f"kernel/{x}" for x in recipes), *(f"light/{x}" for x in light_names()), "control/0"}
    assert {x["item"] for x in read(path)["items"]} == wanted
