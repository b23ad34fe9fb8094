"""One program for a range of sizes: named dimensions that stay symbols, beside ONNX Runtime at several values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tilewright
from tests.onnx_runtime import expected
from tilewright.compare import compare_outputs
from tilewright.errors import InputError
from tilewright.runtime.executable import Executable
from tilewright.testing.cases import case, node, steps
from tilewright.testing.dimensions import with_dimensions
from tilewright.testing.models.bert import bert
from tilewright.testing.models.gpt import gpt

Names = Mapping[str, Sequence[str]]


def compiled(model: onnx.ModelProto, **ranges: range) -> Executable:
    return tilewright.compile(model, "cpu", shapes=ranges, cache=False)


def agree(program: Executable, model: onnx.ModelProto, feeds: Mapping[str, Any]) -> None:
    names = [x.name for x in program.outputs]
    for agreement in compare_outputs(names, program.run(None, feeds), expected(model, feeds)):
        assert agreement.ok, agreement


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def normalised() -> tuple[onnx.ModelProto, Executable]:
    """Softmax over the symbolic dimension, a layer normalisation, and a transpose that reads across it."""
    nodes = [
        node("Add", "x w", "a"),
        node("Softmax", "a", "s", axis=1),
        node("LayerNormalization", "x w w", "l", axis=-1),
        node("Mul", "s l", "m"),
        node("Transpose", "m", "t", perm=[2, 0, 1]),
        node("ReduceMax", "t axes", "r", keepdims=1),
        node("Sub", "t r", "y"),
    ]
    weights = {"w": normal(20), "axes": np.asarray([2])}
    made = case("normalised", nodes, {"x": normal(2, 5, 20)}, weights, ("y", "s")).model
    made = with_dimensions(made, {"x": ("batch", "seq", "")})
    return made, compiled(made, batch=range(5), seq=range(1, 71))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (3, 16), (3, 33), (4, 64), (4, 70)])
def test_one_program_for_every_size(
    normalised: tuple[onnx.ModelProto, Executable], batch: int, length: int
) -> None:
    agree(normalised[1], normalised[0], {"x": normal(batch, length, 20)})


def test_an_empty_batch(normalised: tuple[onnx.ModelProto, Executable]) -> None:
    found = normalised[1].run(None, {"x": normal(0, 9, 20)})
    assert [x.shape for x in found] == [(20, 0, 9), (0, 9, 20)]


@pytest.mark.parametrize("shape", [(2, 71, 20), (5, 7, 20), (2, 0, 20), (2, 7, 21)])
def test_sizes_outside_of_the_ranges_are_refused(
    normalised: tuple[onnx.ModelProto, Executable], shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="Input 'x'"):
        normalised[1].run(None, {"x": normal(*shape)})


def test_a_saved_program_keeps_its_ranges(
    normalised: tuple[onnx.ModelProto, Executable], tmp_path: Path
) -> None:
    path = tmp_path / "program.tw"
    normalised[1].save(path)
    with tilewright.load(path) as program:
        agree(program, normalised[0], {"x": normal(2, 11, 20)})
        with pytest.raises(InputError, match="'seq'"):
            program.run(None, {"x": normal(2, 71, 20)})


def test_extents_that_are_computed() -> None:
    nodes = [node("Concat", "x z", "c", axis=0), node("Relu", "c", "y"), node("Reshape", "c flat", "f")]
    made = case("joined", nodes, {"x": normal(3, 4), "z": normal(3, 4)}, {"flat": np.asarray([-1])}, ("y", "f")).model
    made = with_dimensions(made, {"x": ("n", ""), "z": ("m", "")})
    program = compiled(made, n=range(9), m=range(1, 30))
    for n, m in ((0, 1), (3, 4), (8, 29)):
        agree(program, made, {"x": normal(n, 4), "z": normal(m, 4)})


def test_a_length_as_data() -> None:
    counted = "s = Shape x; n = Gather s one; f = Cast n; r = Range zero n one"
    nodes = steps(f"{counted}; p = Cast r; q = Div p f; y = Add x q")
    for x in nodes:
        if x.op_type == "Cast":
            x.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
    made = case("positions", nodes, {"x": normal(2, 6)}, {"zero": np.asarray(0), "one": np.asarray(1)}).model
    made = with_dimensions(made, {"x": ("", "seq")})
    program = compiled(made, seq=range(1, 40))
    for length in (1, 8, 39):
        agree(program, made, {"x": normal(2, length)})


@pytest.mark.parametrize("example", [bert(), gpt()], ids=lambda x: x.name)
def test_transformers_over_batch_and_length(example: Any) -> None:
    made = with_dimensions(example.model, dict.fromkeys(example.feeds, ("batch", "seq")))
    program = compiled(made, batch=range(1, 5), seq=range(1, 33))
    for batch, length in ((1, 1), (1, 7), (3, 16), (4, 32)):
        rng = np.random.default_rng(length)
        agree(program, made, {name: rng.integers(0, 2, (batch, length)) for name in example.feeds})
