"""Values that are read in pieces, made in pieces: what a module computes stays the same, bit for bit."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.ir.ops import TensorOp
from tilewright.ir.verify import verify_module
from tilewright.rewrites.movement import read_through_movements
from tilewright.rewrites.pieces import NAME, by_pieces
from tilewright.testing.cases import Case, case, node, steps

RNG = np.random.default_rng(7)


def rand(*shape: int) -> Any:
    """Small whole numbers, of which sums are exact in any order."""
    return RNG.integers(-4, 5, shape).astype(np.float32)


def whole(made: Case) -> tuple[Module, Group]:
    """The module without movements, and all of it as one group."""
    module = load(made.model)
    module = module.with_main(read_through_movements(module.main.body), module.constants)
    region = module.main.body
    ops = tuple(op for op in region.ops if isinstance(op, TensorOp))
    assert len(ops) == len(region.ops)
    inner = tuple(v for op in ops for v in op.outputs if v not in region.results)
    return module, Group("all", ops, region.results, tuple((v.name, "shared") for v in inner))


def cut(made: Case) -> Group:
    """The group in pieces, once it is sure that it computes the same."""
    module, group = whole(made)
    found = by_pieces(group)
    assert found is not None
    assert found.trail == (NAME,)
    inner = {v.name for op in found.ops for v in op.outputs if v not in found.outputs}
    assert inner == {name for name, level in found.levels if level == "shared"}
    after = module.with_main(attrs.evolve(module.main.body, ops=found.ops), module.constants)
    verify_module(after)
    feeds = [made.feeds[n] for n in module.input_names]
    for before, now in zip(interpret(module, feeds), interpret(after, feeds), strict=True):
        np.testing.assert_array_equal(before, now)
    return found


def cell(*, both: bool = True, shared: bool = False) -> Case:
    """A step of an LSTM of 5 units."""
    nodes = [node("Gemm", "x w b", "m", transB=1), node("Gemm", "h u", "r", transB=1)]
    nodes += steps("g = Add m r") if both else steps("g = Identity m")
    nodes += [node("Split", "g", "i f c o", axis=1, num_outputs=4)]
    nodes += steps("si = Sigmoid i; sf = Sigmoid f; tc = Tanh c; so = Sigmoid o; kept = Mul sf before; new = Mul si tc")
    nodes += steps("cell = Add kept new; tcell = Tanh cell; out = Mul so tcell")
    weights = {"w": rand(20, 6), "u": rand(20, 5), "b": rand(20)}
    feeds = {"x": rand(3, 6), "h": rand(3, 5), "before": rand(3, 5)}
    outputs = ["out", "cell", "g"] if shared else ["out", "cell"]
    used = feeds if both else {k: v for k, v in feeds.items() if k != "h"}
    return case("cell", nodes if both else [nodes[0], *nodes[2:]], used, weights, outputs=outputs)


def states(group: Group) -> list[int]:
    """How many values each operator makes that reduces."""
    return [len(op.outputs) for op in group.ops if isinstance(op, TensorOp) and op.combiner is not None]


def test_the_gates_of_a_cell_are_states_of_its_products() -> None:
    assert states(cut(cell())) == [4, 4]
    assert states(cut(cell(both=False))) == [4]


def test_what_pieces_share_is_read_once() -> None:
    (product,) = (op for op in cut(cell(both=False)).ops if isinstance(op, TensorOp) and op.combiner is not None)
    assert [x.value.name for x in product.reads].count("x") == 1
    assert len(product.reads) == 5


def test_a_row_of_a_table_is_read_in_pieces_too() -> None:
    """Its number is data, which all pieces share."""
    nodes = [node("Gemm", "h u", "r", transB=1), node("Gather", "rows at", "row"), *steps("g = Add r row")]
    nodes += [node("Split", "g", "a b", axis=1, num_outputs=2), *steps("s = Sigmoid a; y = Mul s b")]
    feeds = {"h": rand(1, 5), "rows": rand(4, 6), "at": np.asarray([2])}
    assert states(cut(case("row", nodes, feeds, {"u": rand(6, 5)}))) == [2]


def test_two_values_that_are_read_in_pieces_are_both_cut() -> None:
    nodes = steps("m = MatMul x w; r = MatMul h u")
    nodes += [node("Split", v, f"{v}0 {v}1 {v}2", axis=-1, num_outputs=3) for v in ("m", "r")]
    nodes += steps("a = Add m0 r0; z = Sigmoid a; n = Mul z r1; c = Add m1 n; y = Max c m2 r2")
    gru = case("gru", nodes, {"x": rand(2, 4), "h": rand(2, 7)}, {"w": rand(4, 9), "u": rand(7, 9)}, outputs=["y"])
    assert states(cut(gru)) == [3, 3]


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_halves_along_any_dimension(axis: int) -> None:
    nodes = steps("t = Mul x k; m = MatMul t w")
    nodes += [node("Split", "m", "a b", axis=axis, num_outputs=2), *steps("s = Sigmoid a; y = Mul s b")]
    assert states(cut(case("halves", nodes, {"x": rand(4, 4, 3, 5), "k": rand(1)}, {"w": rand(5, 6)}))) == [2]


def test_a_gate_after_a_convolution() -> None:
    nodes = [node("Conv", "x w b", "m", group=8, pads=[1, 1, 1, 1])]
    nodes += [node("Split", "m", "a c", axis=1, num_outputs=2), *steps("y = Mul a c")]
    assert states(cut(case("gate", nodes, {"x": rand(2, 8, 6, 6)}, {"w": rand(8, 1, 3, 3), "b": rand(8)}))) == [2]


def refused(made: Case) -> bool:
    return by_pieces(whole(made)[1]) is None


def test_a_value_that_others_need_whole_is_left() -> None:
    assert refused(cell(shared=True))
    halves = [node("Split", "m", "a b", axis=1, num_outputs=2)]
    nodes = [*steps("m = MatMul x w"), *halves, *steps("p = Mul a b; s = ReduceSum m; y = Add p s")]
    assert refused(case("also whole", nodes, {"x": rand(3, 4)}, {"w": rand(4, 6)}, outputs=["y"]))


def test_unequal_pieces_are_left() -> None:
    nodes = [*steps("m = MatMul x w"), node("Split", "m sizes", "a b", axis=1)]
    nodes += [node("ReduceSum", "b", "t"), *steps("y = Add a t")]
    sizes = np.asarray([2, 4], np.int64)
    assert refused(case("unequal", nodes, {"x": rand(3, 4)}, {"w": rand(4, 6), "sizes": sizes}, outputs=["y"]))


def test_pieces_that_begin_within_another_are_left() -> None:
    nodes = steps("m = MatMul x w")
    starts = {f"{n}{i}": np.asarray([v], np.int64) for n, i, v in [("s", 0, 0), ("s", 1, 1), ("e", 0, 3), ("e", 1, 4)]}
    nodes += [node("Slice", f"m s{i} e{i} axes", f"p{i}") for i in range(2)] + steps("y = Mul p0 p1")
    weights = {"w": rand(4, 6), "axes": np.asarray([1], np.int64), **starts}
    assert refused(case("overlapping", nodes, {"x": rand(3, 4)}, weights, outputs=["y"]))
