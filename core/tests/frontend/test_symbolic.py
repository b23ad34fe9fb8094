"""Symbolic dimensions: a module with symbols means, for each value, what the module of that size means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from core.tests.frontend.models import model, node
from tilewright.errors import InputError, InternalError, UnsupportedError
from tilewright.frontend import load
from tilewright.frontend.legalize import builtin_table
from tilewright.frontend.partition.classify import classify
from tilewright.frontend.source import read
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import Var
from tilewright.ir.keys import structural_key
from tilewright.ir.module import Module, Symbol
from tilewright.ir.specialise import specialised
from tilewright.ir.text import parse_module, print_module
from tilewright.ir.verify import verify_module
from tilewright.testing.cases import steps
from tilewright.testing.dimensions import named_by_size, with_dimensions
from tilewright.testing.fuzz import difference, draw_graph
from tilewright.testing.models.bert import bert
from tilewright.testing.models.gpt import gpt

RANGES = {"batch": range(1, 5), "seq": range(40), "depth": range(1, 9), "rows": range(1, 9)}
Open = tuple[str, Sequence[int | str]]


def ranges(kinds: Mapping[str, Open]) -> dict[str, range]:
    """The ranges of the dimensions that the inputs have."""
    return {name: RANGES[name] for _, shape in kinds.values() for name in shape if isinstance(name, str)}


def agree(made: onnx.ModelProto, kinds: Mapping[str, Open], sizes: Sequence[Mapping[str, int]]) -> None:
    """Compares the symbolic module with the reference evaluator at each of the sizes."""
    module = load(made, ranges(kinds))
    verify_module(module)
    read = parse_module(print_module(module), module.constants)
    assert structural_key(read.main) == structural_key(module.main)
    assert module.symbols
    for size in sizes:
        rng = np.random.default_rng(0)
        feeds = {}
        for name, (dtype, shape) in kinds.items():
            extents = [size[n] if isinstance(n, str) else n for n in shape]
            drawn = rng.integers(0, 2, extents) if dtype.startswith("int") else rng.standard_normal(extents)
            feeds[name] = drawn.astype(dtype)
        found = interpret(module, feeds)
        wanted = ReferenceEvaluator(made).run(None, feeds)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


SIZES = ({"batch": 1, "seq": 1}, {"batch": 2, "seq": 7}, {"batch": 4, "seq": 39})
X: Open = ("float32", ("batch", "seq", 12))
S: Open = ("float32", (2, "seq"))

HEADS = (
    "s = Shape x; b = Gather s zero; n = Gather s one; b1 = Unsqueeze b first; n1 = Unsqueeze n first;"
    "t = Concat b1 n1 three four; "
)
FORMS: dict[str, tuple[str, dict[str, Open]]] = {
    "element-wise": ("a = Add x w; e = Sigmoid a; y = Mul e x", {"x": X}),
    "softmax": ("y = Softmax x", {"x": S}),
    "mean": ("u = ReduceMean x axis; y = Sub x u", {"x": ("float32", (2, "seq", 3))}),
    "matrix products": ("a = MatMul x m; t = Transpose a; y = MatMul t a", {"x": ("float32", ("seq", 12))}),
    "a head split and back": (HEADS + "h = Reshape x t; y = Reshape h like", {"x": X}),
    "concatenation": ("y = Concat x z", {"x": ("float32", ("seq", 3)), "z": ("float32", ("batch", 3))}),
    "a table cut to the length": (
        "s = Shape x; n = Gather s one; n1 = Unsqueeze n first; p = Slice table first n1 first; y = Add x p",
        {"x": S},
    ),
    "a count as data": ("s = Shape x; n = Gather s one; f = Cast n; r = Sqrt f; y = Mul x r", {"x": S}),
    "positions": (
        "s = Shape x; n = Gather s one; r = Range zero n one; f = Cast r; y = Add x f",
        {"x": S},
    ),
    "expansion": (
        "s = Shape x; u = Mul s minus; e = Equal s u; o = ConstantOfShape two; p = Where e o s; y = Expand small p",
        {"x": S},
    ),
    "the largest": ("a = ArgMax x; c = Cast a; r = Reshape c col; y = Add x r", {"x": S}),
    "rows from indices": ("g = Gather m i; y = Add g w", {"i": ("int64", ("batch", "seq"))}),
}
WEIGHTS: dict[str, Any] = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32),
    "m": np.linspace(-1, 1, 144, dtype=np.float32).reshape(12, 12),
    "table": np.arange(64, dtype=np.float32),
    "small": np.ones((1, 1), np.float32),
    "zero": np.asarray(0),
    "one": np.asarray(1),
    "axis": np.asarray([1]),
    "first": np.asarray([0]),
    "two": np.asarray([2]),
    "three": np.asarray([3]),
    "four": np.asarray([4]),
    "like": np.asarray([0, -1, 12]),
    "col": np.asarray([2, 1]),
    "minus": np.asarray(-1),
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Softmax": {"axis": 1},
    "ReduceMean": {"keepdims": 1},
    "Concat": {"axis": 0},
    "Cast": {"to": onnx.TensorProto.FLOAT},
    "ArgMax": {"axis": 1, "keepdims": 0},
    "ConstantOfShape": {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [1])},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_networks_do_with_a_length(form: str) -> None:
    text, kinds = FORMS[form]
    nodes = steps(text)
    for x in nodes:
        x.attribute.extend(helper.make_attribute(k, v) for k, v in ATTRIBUTES.get(x.op_type, {}).items())
    used = {name for x in nodes for name in x.input}
    weights = {k: v for k, v in WEIGHTS.items() if k in used}
    inputs: Any = dict(kinds)
    made = model(nodes, inputs, weights=weights)
    (result,) = made.graph.output
    if not result.type.tensor_type.HasField("shape"):  # onnx's checker wants the rank, which inference did not find
        result.CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None]))
    agree(made, kinds, SIZES)


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, 5, 1), (1, 1 << 62, 2), (-3, 1 << 62, 1), (-1, -(1 << 62), -1), (2, -2, 1)]
)
def test_a_slice_counts_from_either_end(start: int, end: int, step: int) -> None:
    bounds = {k: np.asarray([v]) for k, v in {"a": start, "b": end, "axes": 1, "step": step}.items()}
    made = model([node("Slice", ["x", "a", "b", "axes", "step"])], {"x": S}, weights=bounds)
    module = load(made, ranges({"x": S}))
    verify_module(module)
    for n in (0, 1, 4, 9):
        x = np.arange(2 * n, dtype=np.float32).reshape(2, n)
        found = interpret(module, {"x": x})[0]
        first = start if step > 0 or n else 0
        np.testing.assert_array_equal(found, x[:, slice(first, None if end < -(1 << 40) else end, step)])


def test_windows_over_a_symbolic_image() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["p"]),
    ]
    kinds: dict[str, Open] = {"x": ("float32", ("batch", 2, "seq", "seq"))}
    weights = {"w": np.linspace(-1, 1, 54, dtype=np.float32).reshape(3, 2, 3, 3)}
    inputs: Any = dict(kinds)
    made = model(nodes, inputs, weights=weights)
    agree(made, kinds, [{"batch": b, "seq": n} for b, n in ((1, 3), (2, 8), (3, 13))])


def test_images_of_a_symbolic_batch_are_made_larger() -> None:
    nodes = [
        node("Resize", ["x", "", "scales"], ["r"], mode="linear"),
        node("Shape", ["r"], ["s"], end=2),
        node("Concat", ["s", "size"], ["t"], axis=0),
        node("Resize", ["x", "", "", "t"], ["n"], mode="nearest"),
        node("Add", ["r", "n"], ["a"]),
        node("ConvTranspose", ["a", "w"], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    kinds: dict[str, Open] = {"x": ("float32", ("batch", 2, 5, 6))}
    weights = {
        "scales": np.asarray([1, 1, 2, 1.5], np.float32),
        "size": np.asarray([10, 9]),
        "w": np.linspace(-1, 1, 54, dtype=np.float32).reshape(2, 3, 3, 3),
    }
    inputs: Any = dict(kinds)
    made = model(nodes, inputs, weights=weights)
    agree(made, kinds, [{"batch": 1}, {"batch": 4}])


@pytest.mark.parametrize("case", [bert(), gpt()], ids=lambda x: x.name)
def test_transformers_over_batch_and_length(case: Any) -> None:
    kinds: dict[str, Open] = dict.fromkeys(case.feeds, ("int64", ("batch", "seq")))
    names = {k: shape for k, (_, shape) in kinds.items()}
    made = with_dimensions(case.model, names)  # type: ignore[arg-type]
    bounds = {"batch": range(1, 4), "seq": range(1, 33)}
    module = load(made, bounds)
    verify_module(module)
    for batch, length in ((1, 1), (2, 7), (3, 32)):
        rng = np.random.default_rng(length)
        feeds = {name: rng.integers(0, 2, (batch, length)) for name in case.feeds}
        for mine, theirs in zip(interpret(module, feeds), ReferenceEvaluator(made).run(None, feeds), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def symbolic(made: onnx.ModelProto, largest: int) -> Module | None:
    """The module over the dimension `n`, or None where it is refused."""
    try:
        return load(made, {"n": range(1, largest + 1)})
    except UnsupportedError:
        return None


def test_random_graphs_mean_the_same_at_every_size() -> None:
    compared = 0
    for seed in range(60):
        graph = draw_graph(seed)
        for size in sorted({n for x in graph.feeds for n in x.shape if n > 1}):
            made = named_by_size(graph.model, size, "n")
            module = symbolic(made, size + 2)
            if module is None:
                continue
            verify_module(module)
            found = interpret(module, graph.feeds)
            wrong = [w for w in map(difference, module.output_names, found, graph.expected) if w]
            assert not wrong, f"graph {seed}, size {size}: {wrong}"
            for other in (1, size - 1, size + 2):
                feeds = [np.resize(x, [other if n == size else n for n in x.shape]) for x in graph.feeds]
                compared += same_as_fixed(module, made, feeds)
    assert compared > 100


def same_as_fixed(module: Module, made: onnx.ModelProto, feeds: Sequence[Any]) -> bool:
    """Compares with the module of fixed shapes; False when the model does not take these."""
    shapes = {i.name: x.shape for i, x in zip(made.graph.input, feeds, strict=True)}
    try:
        wanted = interpret(load(made, shapes), feeds)
    except (InputError, InternalError):
        return False
    for mine, theirs in zip(interpret(module, feeds), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    return True


def test_the_symbol_is_the_dimension() -> None:
    made = model([node("Relu", ["x"])], {"x": ("float32", ["seq", "seq", 3])})
    module = load(made, {"seq": (2, 9)})
    assert module.symbols == (Symbol("seq", 2, 9),)
    assert module.main.body.results[0].extents == (Var("seq"), Var("seq"), 3)
    for shape in ((1, 1, 3), (10, 10, 3), (4, 5, 3), (4, 4, 2)):
        with pytest.raises(InputError, match="must be float32"):
            interpret(module, {"x": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seqs": range(1, 9)}, "'seqs', which is no named dimension.*Did you mean 'seq'"),
        ({"seq": range(9, 1)}, "range given for the dimension 'seq'"),
        ({"seq": range(1, 9, 2)}, "range given for the dimension 'seq'"),
        ({"seq": range(-1, 9)}, "range given for the dimension 'seq'"),
        ({"seq": range(1, 9), "x": [2, 4]}, "'seq' has a range, and is 4 in 'x'"),
    ],
)
def test_ranges_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    made = model([node("Relu", ["x"])], {"x": S})
    with pytest.raises(InputError, match=message):
        load(made, given)


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Open], str]] = {
    "a size that fits once": (steps("y = Add x w"), {"x": ("float32", ("seq",))}, "the Add.*extent|broadcasts"),
    "another symbol": (
        steps("y = Add x z"),
        {"x": ("float32", ("seq",)), "z": ("float32", ("batch",))},
        "broadcasts .*seq.* against .*batch",
    ),
    "a depth that fits once": (steps("y = MatMul x m"), {"x": ("float32", (2, "depth"))}, "MatMul.* finds depth"),
    "parts of rows": (
        [node("Concat", ["x", "x"], ["c"], axis=0), node("Reshape", ["c", "like"])],
        {"x": ("float32", (2, "rows", 3))},
        r"Reshape.* divides rows \* 12 elements by 48",
    ),
    "a table that is too short": (
        steps("s = Shape x; n = Gather s one; n1 = Unsqueeze n first; p = Slice w first n1 first; y = Add x p"),
        {"x": S},
        "Add.* broadcasts",
    ),
    "a division with a rest": (steps("y = Reshape x like"), {"x": S}, "Reshape.* divides"),
    "no rule for symbols": (
        [node("GridSample", ["x", "z"])],
        {"x": ("float32", (1, 1, "seq", 4)), "z": ("float32", (1, 2, 2, 2))},
        "the GridSample",
    ),
    "an index that some sizes lack": (
        steps("y = Gather x three"),
        {"x": ("float32", ("seq", 3))},
        "index 3.*when these",
    ),
    "equal parts": ([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)], {"x": S}, "Split.* 2 parts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_symbolic_is_refused_with_a_remedy(name: str) -> None:
    nodes, kinds, message = REFUSED[name]
    used = {n for x in nodes for n in x.input}
    inputs: Any = dict(kinds)
    made = model(nodes, inputs, weights={k: v for k, v in WEIGHTS.items() if k in used})
    with pytest.raises(UnsupportedError, match=message) as raised:
        load(made, ranges(kinds))
    assert any(f"--shape {n}=128" in raised.value.remedy for n in ranges(kinds))


def test_what_becomes_of_nodes_is_told_for_ranges_too() -> None:
    made = with_dimensions(gpt().model, {"input_ids": ("batch", "seq")})
    found = classify(read(made), builtin_table(), {"batch": range(1, 4), "seq": (1, 32)}, lenient=True)
    assert {x.where for x in found.verdicts} == {"native", "constant"}
    found = classify(read(made), builtin_table(), {"batch": range(1, 4), "seq": range(1, 65)}, lenient=True)
    assert [x.node.op_type for x in found.verdicts if x.where == "reference"][:1] == ["Where"]  # 32 positions are known


def test_specialising_a_module_is_substitution() -> None:
    made = with_dimensions(bert().model, dict.fromkeys(bert().feeds, ("batch", "seq")))
    module = load(made, {"batch": range(1, 4), "seq": range(1, 33)})
    fixed = specialised(module, {"batch": 2, "seq": 9})
    assert not fixed.symbols
    verify_module(fixed)
    feeds = {name: np.random.default_rng(9).integers(0, 2, (2, 9)) for name in bert().feeds}
    for mine, theirs in zip(interpret(fixed, feeds), interpret(module, feeds), strict=True):
        np.testing.assert_array_equal(mine, theirs)
