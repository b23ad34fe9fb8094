"""The commands, end to end on the CPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import tilewright
from tilewright.artifact import Artifact
from tilewright.errors import InputError

Tw = Callable[..., Any]


def test_compile_inspect_run_explain(tw: Tw, dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "dense.tw"
    made = json.loads(tw("compile", dense, "-o", out, "--json").out)
    assert made["bytes"] == out.stat().st_size
    assert made["kernels"] >= 1
    manifest = json.loads(tw("inspect", out, "--json").out)
    assert [i["name"] for i in manifest["inputs"]] == ["x"]
    assert manifest["inputs"][0]["shape"] == [3, 6]

    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ran = tw("run", out, "--input", f"x={tmp_path / 'x.npy'}", "--save-outputs", tmp_path / "out", "--json")
    (saved,) = json.loads(ran.out)["saved"]
    (expected,) = ReferenceEvaluator(str(dense)).run(None, {"x": x})
    np.testing.assert_allclose(np.load(saved), expected, rtol=1e-5, atol=1e-6)

    decisions = json.loads(tw("explain", out, "--json").out)
    assert {"propose"} <= {d["slot"] for d in decisions}
    assert decisions == json.loads(tw("explain", dense, "--json").out)
    assert tw("explain", out).code == 0


def test_a_module_of_the_tile_ir_is_compiled_from_its_text(tw: Tw, tmp_path: Path) -> None:
    """`down` counts down to zero, by recursion, and says how deep that was."""
    text = """
module main {
  depth 5
  func main(n: int64[]) {
    call r = down(n) -> (r: int64[])
    return (r)
  }
  func down(n: int64[]) {
    tensor go for () {
      %0 = n[]
      body %0 > 0
      write go: bool[] []
    }
    if r by go -> (r: int64[]) {
      then () {
        tensor less for () {
          %0 = n[]
          body %0 - 1
          write less: int64[] []
        }
        call deeper = down(less) -> (deeper: int64[])
        tensor more for () {
          %0 = deeper[]
          body %0 + 1
          write more: int64[] []
        }
        return (more)
      }
      else () {
        return (n)
      }
    }
    return (r)
  }
}
"""
    model, out = tmp_path / "down.tile", tmp_path / "down.tw"
    model.write_text(text.lstrip(), encoding="utf-8")
    assert tw("compile", model, "-o", out).code == 0
    for n, code in ((4, 0), (5, 2)):
        np.save(tmp_path / "n.npy", np.asarray(n))
        ran = tw("run", out, "--input", f"n={tmp_path / 'n.npy'}", "--save-outputs", tmp_path / "out", "--json")
        assert ran.code == code
        if code:
            assert ran.err.startswith("error: The recursion of function 'down' is deeper than its bound of 5 calls.")
        else:
            assert int(np.load(json.loads(ran.out)["saved"][0])) == n
    decisions = json.loads(tw("explain", model, "--slot", "control_place", "--json").out)
    assert any(d["subject"] == "deeper" and "calls down" in d["why"] for d in decisions)
    np.save(tmp_path / "n.npy", np.asarray(4))
    compared = json.loads(tw("compare", model, "--input", f"n={tmp_path / 'n.npy'}", "--json").out)
    assert (compared["agree"], compared["against"]) == (True, "interpreter")
    model.write_text(text.lstrip().replace("down(less)", "up(less)"), encoding="utf-8")
    refused = tw("compile", model, "-o", tmp_path / "other.tw")
    assert refused.code == 2
    assert "there is no function 'up'" in refused.err


def test_run_takes_a_model_too_and_a_seed_makes_it_repeatable(tw: Tw, dense: Path) -> None:
    first, second, other = (json.loads(tw("run", dense, "--seed", s, "--json").out) for s in (1, 1, 2))
    assert first["outputs"] == second["outputs"] != other["outputs"]


@pytest.mark.parametrize("against", ["onnxruntime", "reference"])
def test_compare_agrees(tw: Tw, dense: Path, against: str) -> None:
    result = tw("compare", dense, "--against", against, "--json")
    assert result.code == 0
    assert json.loads(result.out)["agree"] is True


def test_compare_finds_a_difference(tw: Tw, dense: Path, tmp_path: Path) -> None:
    changed = onnx.load(dense)
    weight = onnx.numpy_helper.to_array(changed.graph.initializer[0]).copy()
    weight[0, 0] += 0.01
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(changed, tmp_path / "changed.onnx")
    assert tw("compile", dense, "-o", tmp_path / "dense.tw").code == 0
    result = tw("compare", tmp_path / "changed.onnx", "--artifact", tmp_path / "dense.tw")
    assert result.code == 1
    assert "NO" in result.out
    strict = tw("compare", dense, "--atol", "0", "--rtol", "0", "--json")
    assert strict.code == (0 if json.loads(strict.out)["agree"] else 1)


def test_a_symbolic_dimension_is_given_by_shape(tw: Tw, symbolic: Path) -> None:
    result = tw("compare", symbolic, "--shape", "x=5x4", "--json")
    assert result.code == 0, result.err


def test_bench(tw: Tw, dense: Path) -> None:
    result = tw("bench", dense, "--rounds", 2, "--seconds", 0.02, "--threads", 1, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    (model,) = found["models"]
    assert model["agree"] is True
    for engine in ("tilewright", "onnxruntime"):
        assert len(model["engines"][engine]["samples"]) >= 6
        assert model["engines"][engine]["median_seconds"] > 0
        assert model["engines"][engine]["peak_bytes"] > 1 << 20
    assert found["geomean_of_ratios"]["onnxruntime"] > 0


def test_bench_goes_on_after_a_model_that_fails(tw: Tw, dense: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    result = tw("bench", tmp_path / "bad.onnx", dense, "--rounds", 1, "--seconds", 0.01, "--json")
    assert result.code == 2
    found = json.loads(result.out)
    assert "not an ONNX model" in found["failures"][str(tmp_path / "bad.onnx")]
    assert [m["model"] for m in found["models"]] == [str(dense)]


def test_without_measuring_artifacts_are_byte_identical(tw: Tw, dense: Path, tmp_path: Path) -> None:
    for name in ("one.tw", "two.tw"):
        assert tw("compile", dense, "-o", tmp_path / name, "--no-cache").code == 0
    assert (tmp_path / "one.tw").read_bytes() == (tmp_path / "two.tw").read_bytes()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("target", ["cpu", "cuda:sm_80"])
def test_processes_with_other_hash_seeds_write_identical_artifacts(dense: Path, tmp_path: Path, target: str) -> None:
    main = "from tilewright.cli import main; main()"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", main, "compile", str(dense), "-o", str(tmp_path / seed), "--no-cache"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([*command, "--target", target], env=environment, check=True, capture_output=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_second_compilation_comes_from_the_cache(tw: Tw, dense: Path, tmp_path: Path, cache: Path) -> None:
    compiled = [json.loads(tw("compile", dense, "-o", tmp_path / f"{i}.tw", "--json").out) for i in range(2)]
    assert [c["cached"] for c in compiled] == [False, True]
    assert (tmp_path / "0.tw").read_bytes() == (tmp_path / "1.tw").read_bytes()
    assert len(json.loads(tw("cache", "list", "--json").out)) == 1
    assert not json.loads(tw("compile", dense, "-o", tmp_path / "x.tw", "--json", "--no-cache").out)["cached"]


def test_the_cache_tells_configurations_and_threads_apart(tw: Tw, dense: Path, tmp_path: Path, cache: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('schema = 1\n[slots]\nconnect = "singletons"\n')
    out = tmp_path / "x.tw"
    kernels = []
    for options in ((), ("--config", config), ("--target", "cpu:x86-64-v3")):
        made = json.loads(tw("compile", dense, "-o", out, "--json", *options).out)
        assert made["cached"] is False
        kernels.append(made["kernels"])
    assert kernels[0] < kernels[1]


def test_a_corrupt_cache_entry_is_built_again(tw: Tw, dense: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "x.tw"
    assert tw("compile", dense, "-o", out).code == 0
    good = out.read_bytes()
    (entry,) = json.loads(tw("cache", "list", "--json").out)
    path = cache / entry["key"]
    for damaged in (good[: len(good) // 2], good.replace(b"\x7fELF", b"\x7fELG"), b""):
        path.write_bytes(damaged)
        result = tw("compile", dense, "-o", out)
        assert result.code == 0
        assert "built again" in result.err
        assert out.read_bytes() == good
        assert path.read_bytes() == good


def test_python_users_get_the_same(dense: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    (expected,) = ReferenceEvaluator(str(dense)).run(None, {"x": x})
    with tilewright.compile(dense, target="cpu", config={"slots": {"connect": "singletons"}}) as program:
        np.testing.assert_allclose(program.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
        program.save(tmp_path / "saved.tw")
    for source in (dense.read_bytes(), onnx.load(dense)):
        with tilewright.compile(source) as program:
            np.testing.assert_allclose(program.run(["y"], {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
    with tilewright.load(tmp_path / "saved.tw", threads=1) as program:
        np.testing.assert_allclose(program.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_runs_are_measured(dense: Path) -> None:
    x = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    with tilewright.compile(dense, target="cpu") as program:
        (wanted,) = program.run(None, {"x": x})
        seconds = program.measure({"x": x}, 7)
        assert len(seconds) == 7
        assert all(0 < x < 1 for x in seconds)
        assert program.stats.runs == 9
        np.testing.assert_array_equal(program.run(None, {"x": x})[0], wanted)
        with pytest.raises(InputError, match="y"):
            program.measure({"y": x}, 1)
    with pytest.raises(InputError, match="closed"):
        program.measure({"x": x}, 1)


def test_progress_and_logs_stay_off_stdout(tw: Tw, dense: Path, tmp_path: Path) -> None:
    result = tw("compile", dense, "-o", tmp_path / "x.tw", "--no-cache", "-vv", "--json")
    json.loads(result.out)
    assert "info: plan" in result.err
    assert tw("compile", dense, "-o", tmp_path / "x.tw", "--no-cache", "-q").err == ""


def test_a_compiled_program_names_its_plugins_and_toolchain(tw: Tw, dense: Path, tmp_path: Path) -> None:
    assert tw("compile", dense, "-o", tmp_path / "x.tw").code == 0
    with Artifact(tmp_path / "x.tw") as artifact:
        assert {"tilewright-core", "tilewright-backends", "apache-tvm", "apache-tvm-ffi"} <= set(
            artifact.manifest.versions
        )


def test_doctor_names_what_rocm_lacks(tw: Tw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = importlib.import_module("tilewright_backends.build.rocm.tools")
    checks = {c["what"]: c for c in json.loads(tw("doctor", "--target", "rocm", "--json").out)}
    assert checks["ROCm linker"]["found"] == (tools.find_linker() or "none")
    assert checks["ROCm device libraries"]["found"] == str(tools.find_device_libraries() or "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    for arguments, state in ((["--target", "rocm:mi300x"], "bad"), ([], "optional")):
        result = tw("doctor", *arguments, "--json")
        (linker,) = [c for c in json.loads(result.out) if c["what"] == "ROCm linker"]
        assert (linker["state"], linker["found"]) == (state, "none")
        assert "lld-22" in linker["remedy"]
        assert result.code == (2 if state == "bad" else 0)


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_doctor_names_the_compiler_that_is_used(
    tw: Tw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    find_nvcc = importlib.import_module("tilewright_backends.build.cuda.compile").find_nvcc
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    for named in (None, tmp_path / "toolkit"):
        if named is not None:
            monkeypatch.setenv(variable, str(named))
            (named / "bin").mkdir(parents=True)
            (named / "bin" / "nvcc").touch()
        (check,) = [c for c in json.loads(tw("doctor", "--json").out) if c["what"] == "CUDA compiler"]
        if find_nvcc() is not None:
            assert check["found"] == find_nvcc()
    assert find_nvcc() == str(tmp_path / "toolkit" / "bin" / "nvcc")
