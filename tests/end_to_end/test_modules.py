"""Modules of the tile IR as models: built in Python, or read from their text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright
from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.errors import InputError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.ir.module import Module
from tilewright.ir.text import parse_module, print_module

WEIGHT = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32) / 3
X = np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32)


def powers(depth: int = 20) -> Module:
    """`x @ WEIGHT` as often as `n` says, by recursion."""
    m = ModuleBuilder(depth)
    row = ("float32", (1, 8))

    @m.function([("int64", ()), row], [row])
    def power(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            return b.call(power, b.op("Sub", n, 1), b.op("MatMul", x, WEIGHT))

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([("int64", ()), row], ["y"])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(power, n, x)

    return m.build()


def agree(program: tilewright.Executable) -> None:
    wanted = X.astype(np.float64)
    for n in range(5):
        (found,) = program.run(["y"], {"n": np.asarray(n), "x": X})
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        wanted = wanted @ WEIGHT


def test_a_module_is_compiled_saved_and_loaded(tmp_path: Path) -> None:
    program = tilewright.compile(powers(), target="cpu")
    assert [x.name for x in program.inputs] == ["n", "x"]
    agree(program)
    program.save(tmp_path / "p.tw")
    loaded = tilewright.load(tmp_path / "p.tw")
    agree(loaded)
    with pytest.raises(InputError, match="'power' is deeper than its bound of 20 calls"):
        loaded.run(None, {"n": np.asarray(20), "x": X})
    agree(loaded)


def test_a_text_holds_all_of_a_module(tmp_path: Path) -> None:
    text = print_module(powers(), contents=True)
    # Where operators come from is a comment, which is not read back.
    assert print_module(parse_module(text), contents=True) == re.sub(r"  # .*", "", text)
    (tmp_path / "p.tile").write_text(text, encoding="utf-8")
    agree(tilewright.compile(tmp_path / "p.tile", target="cpu"))


def test_the_example_of_a_text_counts_rabbits() -> None:
    program = tilewright.compile(Path(__file__).parents[2] / "examples" / "fibonacci.tile", target="cpu")
    assert [x.name for x in program.outputs] == ["fibonacci"]
    found = [int(program.run(None, {"n": np.asarray(n)})[0]) for n in (0, 1, 2, 10, 20)]
    assert found == [0, 1, 1, 55, 6765]


def test_the_cache_tells_depths_apart(tmp_path: Path) -> None:
    for depth in (2, 3):
        program = tilewright.compile(powers(depth), target="cpu")
        program.run(None, {"n": np.asarray(depth - 1), "x": X})
        with pytest.raises(InputError, match=f"bound of {depth} calls"):
            program.run(None, {"n": np.asarray(depth), "x": X})


def test_a_recursive_entry_and_results_that_nothing_computes(tmp_path: Path) -> None:
    text = """
module down {
  const limit: int64[] = [3]
  func down(n: int64[]) {
    tensor stop for () {
      %0 = n[]
      %1 = limit[]
      body %0 <= %1
      write stop: bool[] []
    }
    if last by stop -> (last: int64[], same: int64[]) {
      then () {
        return (n, limit)
      }
      else () {
        tensor less for () {
          %0 = n[]
          body %0 - 2
          write less: int64[] []
        }
        call again = down(less) -> (last_inner: int64[], n_inner: int64[], limit_inner: int64[])
        return (last_inner, limit_inner)
      }
    }
    return (last, n, limit)
  }
}
"""
    (tmp_path / "down.tile").write_text(text.lstrip(), encoding="utf-8")
    program = tilewright.compile(tmp_path / "down.tile", target="cpu", cache=False)
    assert [x.name for x in program.outputs] == ["output0", "output1", "output2"]
    for n in (1, 8, 11):
        found = [int(x) for x in program.run(None, {"n": np.asarray(n)})]
        assert found == [n if n <= 3 else 2 + n % 2, n, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("call ", "coll ", 1), "not well-formed. Line"),
        (lambda text: text.replace("= power(n, x)", "= powder(n, x)", 1), "breaks a law of the tile IR"),
        (lambda text: text.replace('= bytes "', '= bytes "*', 1), "base64"),
        (lambda text: text.replace('= bytes "', '= bytes "AAAA', 1), "256 bytes"),
        (lambda text: "", "not well-formed. Line 1"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(tmp_path: Path, change: Callable[[str], str], words: str) -> None:
    path = tmp_path / "p.tile"
    path.write_text(change(print_module(powers(), contents=True)), encoding="utf-8")
    with pytest.raises(InputError, match=r"p\.tile") as caught:
        tilewright.compile(path, target="cpu")
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read_or_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        tilewright.compile(tmp_path / "none.tile", target="cpu")
    (tmp_path / "bad.tile").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not text in UTF-8"):
        tilewright.compile(tmp_path / "bad.tile", target="cpu")


def test_shapes_and_values_are_in_the_module() -> None:
    with pytest.raises(InputError, match="Shapes are given for its input 'x'"):
        tilewright.compile(powers(), target="cpu", shapes={"x": [1, 8]})
    with pytest.raises(InputError, match="Values are given for its input 'n'"):
        tilewright.compile(powers(), target="cpu", bind={"n": np.asarray(1)})


def test_the_example_agrees_with_its_reference() -> None:
    example = Path(__file__).parents[2] / "examples" / "recursion.py"
    for depth, code in ((64, 0), (2, 2)):
        command = [sys.executable, str(example), "--depth", str(depth)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert done.stdout.count("largest error") == (3 if not code else 0)
