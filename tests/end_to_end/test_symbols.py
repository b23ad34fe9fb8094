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
from tilewright.compiler import plan_model
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.errors import InputError
from tilewright.interpret.task import run_tasks
from tilewright.ir.verify import verify_program
from tilewright.plugins.manager import Registry
from tilewright.runtime.executable import Executable
from tilewright.testing.cases import case, node, steps
from tilewright.testing.dimensions import with_dimensions
from tilewright.testing.models.bert import bert
from tilewright.testing.models.gpt import gpt

Names = Mapping[str, Sequence[str]]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return bind(Config(target="cpu"), Registry())


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


def test_a_product_of_three_extents() -> None:
    nodes = [node("Tanh", "x", "t"), node("Flatten", "t", "y", axis=0)]
    made = with_dimensions(case("flat", nodes, {"x": normal(2, 3, 4, 1)}, {}).model, {"x": ("n", "m", "n", "")})
    program = compiled(made, n=range(1, 9), m=(1, 9))
    for n, m in ((1, 9), (3, 2), (8, 7)):
        agree(program, made, {"x": normal(n, m, n, 1)})


def test_equal_parts_of_what_is_a_multiple() -> None:
    nodes = [node("Concat", "x x x x", "c", axis=0), node("Split", "c", "y z", axis=0, num_outputs=2)]
    made = with_dimensions(case("halves", nodes, {"x": normal(3, 4)}, {}, ("y", "z")).model, {"x": ("n", "")})
    program = compiled(made, n=range(1, 9))
    for n in (1, 5, 8):
        agree(program, made, {"x": normal(n, 4)})


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


def attention() -> list[onnx.NodeProto]:
    """Scores of every pair of positions, and their softmax times the values."""
    return [
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("MatMul", "x t", "scores"),
        node("Softmax", "scores", "p", axis=-1),
        node("MatMul", "p z", "y"),
    ]


PRODUCTS: dict[str, tuple[list[onnx.NodeProto], dict[str, tuple[str | int, ...]], dict[str, Any]]] = {
    "rows by a packed matrix": (
        steps("p = MatMul x w; y = Add p b"),
        {"x": ("n", "m", 40)},
        {"w": (40, 50), "b": (50,)},
    ),
    "a packed matrix by columns": (steps("y = MatMul w x"), {"x": (40, "n")}, {"w": (33, 40)}),
    "both sizes of the result": (steps("y = MatMul x z"), {"x": ("n", 30), "z": (30, "m")}, {}),
    "a symbolic depth": (steps("y = MatMul x z"), {"x": (9, "n"), "z": ("n", 20)}, {}),
    "batches": (steps("y = MatMul x z"), {"x": ("n", 5, "m", 8), "z": ("n", 5, 8, "m")}, {}),
    "attention": (attention(), {"x": ("n", "m", 24), "z": ("n", "m", 24)}, {}),
    "one row for each of a batch": (steps("y = MatMul x w"), {"x": ("n", 1, 50)}, {"w": (50, 7)}),
    "transposed": ([node("Gemm", "x z b", "y", transA=1, alpha=0.5)], {"x": (12, "n"), "z": (12, 17)}, {"b": (17,)}),
    "a convolution over a batch": (
        [node("Conv", "x w b", "y", pads=[1, 1, 1, 1])], {"x": ("n", 6, 9, 9)}, {"w": (8, 6, 3, 3), "b": (8,)}
    ),
    "a convolution over an image": (
        [node("Conv", "x w b", "y", pads=[1, 1, 1, 1], strides=[2, 2])],
        {"x": (2, 6, "n", "m")},
        {"w": (8, 6, 3, 3), "b": (8,)},
    ),
    "groups": ([node("Conv", "x w", "y", group=3)], {"x": ("n", 6, "m", 9)}, {"w": (6, 2, 3, 3)}),
    "depthwise": ([node("Conv", "x w", "y", group=6)], {"x": ("n", 6, "m", 9)}, {"w": (6, 1, 3, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_symbolic_sizes(name: str) -> None:
    nodes, kinds, weights = PRODUCTS[name]
    feeds = {k: normal(*(7 if isinstance(n, str) else n for n in shape)) for k, shape in kinds.items()}
    made = case(name, nodes, feeds, {k: normal(*shape) for k, shape in weights.items()}).model
    made = with_dimensions(made, {k: [n if isinstance(n, str) else "" for n in s] for k, s in kinds.items()})
    used = {n for shape in kinds.values() for n in shape if isinstance(n, str)}
    program = compiled(made, **{n: range(1, 71) for n in used})
    recipes = {x["chosen"]["recipe"] for x in program.decisions if x["slot"] == "propose"}
    assert ("cpu.contraction" in recipes) or name in ("groups", "depthwise")  # these are small for it
    for n, m in ((3, 3), (7, 16), (33, 5), (64, 4), (16, 33), (70, 70)):
        size = {"n": n, "m": m}
        agree(
            program,
            made,
            {k: normal(*(size[d] if isinstance(d, str) else d for d in shape)) for k, shape in kinds.items()},
        )


def test_a_decoder_step_with_a_cache() -> None:
    """The mask's length is called `past + seq`, as exporters do; the cache grows by `seq`."""
    nodes = [
        node("Concat", "past x", "cache", axis=1),
        node("Transpose", "cache", "t", perm=[0, 2, 1]),
        node("MatMul", "x t", "scores"),
        node("Unsqueeze", "mask axes", "wide"),
        node("Add", "scores wide", "masked"),
        node("Softmax", "masked", "p", axis=-1),
        node("MatMul", "p cache", "y"),
    ]
    feeds = {"mask": normal(2, 7), "x": normal(2, 3, 16), "past": normal(2, 4, 16)}
    made = case("decoder", nodes, feeds, {"axes": np.asarray([1])}, ("y", "cache")).model
    names = {"mask": ("batch", "past + seq"), "x": ("batch", "seq", ""), "past": ("batch", "past", "")}
    made = with_dimensions(made, names)
    program = compiled(made, batch=range(1, 4), seq=range(1, 9), past=range(40))
    for batch, seq, past in ((1, 8, 0), (2, 1, 1), (3, 1, 39), (1, 8, 39), (2, 3, 16)):
        fed = {"mask": normal(batch, past + seq), "x": normal(batch, seq, 16), "past": normal(batch, past, 16)}
        agree(program, made, fed)
    with pytest.raises(InputError, match=r"Input 'mask'.*\(past \+ seq\) must be 5 here"):
        program.run(None, {"mask": normal(2, 6), "x": normal(2, 1, 16), "past": normal(2, 4, 16)})


def test_the_tasks_of_a_program_for_every_size(settings: Settings) -> None:
    """Every task on poisoned memory, as many as the values ask for; the planned program keeps its laws."""
    example = gpt()
    made = with_dimensions(example.model, dict.fromkeys(example.feeds, ("batch", "seq")))
    program = plan_model(made, settings, {"batch": range(1, 5), "seq": range(1, 33)}).program
    verify_program(program)
    for batch, length in ((1, 1), (3, 17), (4, 32)):
        feeds = {name: np.random.default_rng(length).integers(0, 2, (batch, length)) for name in example.feeds}
        found = run_tasks(program, [feeds[x] for x in program.input_names])
        for agreement in compare_outputs(list(program.output_names), list(found), expected(made, feeds)):
            assert agreement.ok, agreement
