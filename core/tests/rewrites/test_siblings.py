"""Products of one operand as one product: what a module computes stays the same, bit for bit."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.verify import verify_module
from tilewright.rewrites.movement import read_through_movements
from tilewright.rewrites.siblings import join_siblings
from tilewright.testing.cases import Case, case, node, steps

RNG = np.random.default_rng(3)


def rand(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def joined(made: Case) -> tuple[Module, list[tuple[str, ...]]]:
    """The module with its products joined, and the operators that were joined, in order of the model."""
    module = load(made.model)
    found = join_siblings(read_through_movements(module.main.body), module.constants)
    after = module.with_main(found.region, {**module.constants, **found.constants})
    verify_module(after)
    feeds = [made.feeds[n] for n in module.input_names]
    for before, now in zip(interpret(module, feeds), interpret(after, feeds), strict=True):
        np.testing.assert_array_equal(before, now)
    return after, list(found.names.values())


def heads(*widths: int, after: str = "") -> Case:
    """Products of the input, each `widths[i]` wide, with biases, `after`, and a product of each."""
    nodes, weights = [], {}
    for i, width in enumerate(widths):
        weights |= {f"w{i}": rand(12, width), f"b{i}": rand(width), f"v{i}": rand(width, 5)}
        nodes += steps(f"m{i} = MatMul x w{i}; a{i} = Add m{i} b{i}")
        nodes += steps(f"r{i} = {after} a{i}") if after else steps(f"r{i} = Identity a{i}")
        nodes += steps(f"y{i} = MatMul r{i} v{i}")
    return case("heads", nodes, {"x": rand(2, 7, 12)}, weights, outputs=[f"y{i}" for i in range(len(widths))])


@pytest.mark.parametrize("after", ["", "Relu", "Erf"])
@pytest.mark.parametrize("widths", [(8, 8, 8), (16, 4, 4), (8, 24)])
def test_products_with_biases_and_activations_become_one(widths: tuple[int, ...], after: str) -> None:
    module, names = joined(heads(*widths, after=after))
    assert [len(x) for x in names] == [len(widths)] * (3 if after else 2)
    first = next(op for op in module.main.body.ops if op.name.endswith("_joined"))
    assert first.outputs[0] is not None
    assert first.outputs[0].static_shape() == (2, 7, sum(widths))


def test_columns_begin_at_whole_pieces_of_memory() -> None:
    _, names = joined(heads(5, 8, 6))
    assert [len(x) for x in names] == [2, 2]  # 8, and one of those that do not fill whole pieces


def test_products_of_a_joined_product_are_joined_too() -> None:
    nodes = steps("a = MatMul x u; b = MatMul x v; p = MatMul b s; q = MatMul b t; k = Add p c; l = Add q d")
    nodes += steps("y = MatMul a w; z = MatMul k w; o = MatMul l w")
    weights = {x: rand(8, 8) for x in "uvst"} | {"c": rand(8), "d": rand(8), "w": rand(8, 3)}
    _, names = joined(case("twice", nodes, {"x": rand(3, 8)}, weights, outputs=["y", "z", "o"]))
    assert [len(x) for x in names] == [2, 2, 2]


def apart(nodes: Any, weights: dict[str, Any], outputs: tuple[str, ...] = ("y", "z")) -> None:
    _, names = joined(case("apart", nodes, {"x": rand(3, 8)}, weights, outputs=outputs))
    assert names == []


def test_products_stay_apart_where_an_activation_would_lose_its_kernel() -> None:
    nodes = steps("a = MatMul x u; b = MatMul x v; r = Relu a; y = MatMul r w; z = MatMul b w")
    apart(nodes, {"u": rand(8, 8), "v": rand(8, 8), "w": rand(8, 3)})


def test_results_of_the_model_and_what_only_looks_alike_stay_apart() -> None:
    apart(steps("y = MatMul x u; z = MatMul x v"), {"u": rand(8, 8), "v": rand(8, 8)})
    nodes = steps("a = MatMul x u; n = Neg x; b = MatMul n v; y = MatMul a w; z = MatMul b w")
    apart(nodes, {"u": rand(8, 8), "v": rand(8, 8), "w": rand(8, 3)})


def test_pointwise_convolutions_of_one_image_become_one() -> None:
    nodes = [
        *(node("Conv", f"x w{i} b{i}", f"c{i}") for i in range(3)),
        *(node("Relu", f"c{i}", f"r{i}") for i in range(3)),
        node("Conv", "r0 k", "d", pads=[1, 1, 1, 1]),
        node("Concat", "d r1 r2", "y", axis=1),
    ]
    weights = {f"w{i}": rand(4 * (i + 1), 6, 1, 1) for i in range(3)} | {f"b{i}": rand(4 * (i + 1)) for i in range(3)}
    made = case("inception", nodes, {"x": rand(2, 6, 5, 4)}, weights | {"k": rand(3, 4, 3, 3)})
    _, names = joined(made)
    assert [len(x) for x in names] == [3] * len(names)
    assert len(names) >= 2


def test_equal_constants_that_do_not_vary_with_the_columns_are_no_difference() -> None:
    module = load(heads(8, 8).model)
    twice = {name: attrs.evolve(x) for name, x in module.constants.items()}
    assert join_siblings(read_through_movements(module.main.body), twice).names
