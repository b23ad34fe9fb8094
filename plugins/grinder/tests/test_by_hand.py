"""Single rewrites on small modules: what they do, and what they must leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest

from plugins.grinder.tests.rewriting import REWRITES, edited, equal, kinds, moved_parameters
from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.frontend.legalize.builder import Tensor
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import const
from tilewright.ir.module import Module
from tilewright.ir.ops import If, Loop, TensorOp
from tilewright_grinder.editor import Notes
from tilewright_grinder.inline import inline_functions
from tilewright_grinder.options import GrinderOptions

INT, ROW = ("int64", ()), ("float32", (2, 3))
X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.array([[1, 2, 0], [0, 1, -1], [1, 0, 1]], np.float32)


def built(params: Sequence[Any], trace: Any) -> Module:
    """A module of one function."""
    m = ModuleBuilder()
    m.entry(params)(trace)
    return m.build()


def number(n: int) -> Any:
    return np.asarray(n, np.int64)


def same(module: Module, made: Module, *feeds: Any) -> None:
    assert equal(interpret(made, feeds), interpret(module, feeds))


def loop_of(module: Module) -> Loop:
    (found,) = (x for x in module.main.body.ops if isinstance(x, Loop))
    return found


# Unrolling.


def summing(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
    """The sum of the numbers of `n` trips, and `x` scaled in each."""
    return b.for_loop(n, lambda i, s, y: (b.op("Add", s, i), b.op("Mul", y, -0.5)), number(0), x)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_trips_that_do_not_divide_are_made_by_a_second_loop(factor: int) -> None:
    module = built([INT, ROW], lambda b, n, x: summing(b, n, x))
    made, _ = edited(module, REWRITES["partial"], GrinderOptions(factor=factor))
    assert kinds(made).count(Loop) == 2
    for n in (-1, 0, 1, factor - 1, factor, factor + 1, 3 * factor + 2):
        total, _ = interpret(made, [number(n), X])
        assert total == sum(range(n))
        same(module, made, number(n), X)


@pytest.mark.parametrize("factor", [2, 3])
def test_an_exit_is_heeded_after_every_trip(factor: int) -> None:
    def until(b: FunctionBuilder, limit: Tensor, x: Tensor) -> Any:
        goes = lambda n, y: b.op("Less", n, limit)  # noqa: E731
        return b.while_loop(goes, lambda n, y: (b.op("Add", n, 1), b.op("Add", y, y)), number(0), x)

    module = built([INT, ROW], until)
    made, _ = edited(module, REWRITES["partial"], GrinderOptions(factor=factor))
    assert kinds(made).count(If) == factor - 1
    predicated, _ = edited(made, REWRITES["predicate"], GrinderOptions(branch=1.0))
    assert If not in kinds(predicated)
    for n in range(8):
        for rewritten in (made, predicated):
            count, doubled = interpret(rewritten, [number(n), X])
            assert count == n
            assert doubled.tolist() == (X * 2**n).tolist()


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5])
def test_a_known_limit_is_heeded_beside_an_exit(most: int) -> None:
    def until(b: FunctionBuilder, x: Tensor) -> Any:
        return b.while_loop(lambda n, y: b.op("Less", n, 4), lambda n, y: (b.op("Add", n, 1), b.op("Add", y, y)), 0, x)

    module = built([ROW], until)
    ops = [attrs.evolve(x, count=const(most)) if isinstance(x, Loop) else x for x in module.main.body.ops]
    module = module.with_main(attrs.evolve(module.main.body, ops=tuple(ops)))
    made, _ = edited(module, REWRITES["partial"], GrinderOptions(factor=3))
    assert made != module
    assert interpret(made, [X])[0] == min(most, 4)
    same(module, made, X)


def test_only_short_loops_are_written_out() -> None:
    module = built([ROW], lambda b, x: b.for_loop(6, lambda i, y: b.op("Neg", b.op("Abs", y)), x))
    assert Loop in kinds(edited(module, REWRITES["unroll"], GrinderOptions(unroll=11))[0])
    made, _ = edited(module, REWRITES["unroll"], GrinderOptions(unroll=12))
    assert Loop not in kinds(made)
    same(module, made, X)


def test_a_branch_on_the_number_of_a_trip_is_decided_when_the_loop_is_written_out() -> None:
    def trip(b: FunctionBuilder) -> Any:
        return lambda i, y: b.cond(b.op("Less", i, 2), lambda: b.op("Add", y, y), lambda: b.op("Sub", y, 1.0))

    module = built([ROW], lambda b, x: b.for_loop(5, trip(b), x))
    made, _ = edited(module, REWRITES["all"], GrinderOptions(branch=0.0))
    assert set(kinds(made)) == {TensorOp}
    assert interpret(made, [X])[0].tolist() == (4 * X - 3).tolist()


def test_states_that_trade_places_are_copied() -> None:
    def trip(b: FunctionBuilder) -> Any:
        never = lambda j, s, t: (b.op("Add", s, t), b.op("Neg", t))  # noqa: E731
        return lambda i, s, t, u: (*b.for_loop(0, never, t, s), b.op("Exp", u))

    module = built([ROW, ROW], lambda b, x, y: b.for_loop(3, trip(b), x, y, x)[:2])
    made, _ = edited(module, REWRITES["unroll"], GrinderOptions(unroll=0))
    assert kinds(made).count(Loop) == 1
    assert moved_parameters(made) == []
    first, second = interpret(made, [X, -X])
    assert (first.tolist(), second.tolist()) == ((-X).tolist(), X.tolist())


# Invariants.


def scaled(b: FunctionBuilder, trips: Any, x: Tensor, w: Tensor) -> Any:
    return b.for_loop(trips, lambda i, y: b.op("Add", y, b.op("MatMul", x, w)), x)


def test_a_product_is_moved_out_of_a_loop_that_runs() -> None:
    module = built([ROW, ("float32", (3, 3))], lambda b, x, w: scaled(b, 4, x, w))
    made, _ = edited(module, REWRITES["invariant"], GrinderOptions(branch=0.0))
    assert [type(x) for x in loop_of(made).body.ops] == [TensorOp]
    same(module, made, X, W)


@pytest.mark.parametrize(("branch", "left"), [(0.0, 2), (1.0, 1)])
def test_before_a_loop_that_may_not_run_stands_only_what_is_cheap(branch: float, left: int) -> None:
    module = built([INT, ROW, ("float32", (3, 3))], lambda b, n, x, w: scaled(b, n, x, w))
    made, _ = edited(module, REWRITES["invariant"], GrinderOptions(branch=branch))
    assert len(loop_of(made).body.ops) == left
    for n in (0, 1, 3):
        same(module, made, number(n), X, W)


def quotient(b: FunctionBuilder, n: Tensor, d: Tensor) -> Any:
    return b.for_loop(n, lambda i, s: b.op("Add", s, b.op("Div", 12, d)), number(0))


def test_a_division_by_data_waits_for_the_first_trip() -> None:
    module = built([INT, INT], quotient)
    made, _ = edited(module, REWRITES["invariant"], GrinderOptions(branch=1.0))
    assert made == module
    certain = built([INT], lambda b, d: b.for_loop(3, lambda i, s: b.op("Add", s, b.op("Div", 12, d)), number(0)))
    moved, _ = edited(certain, REWRITES["invariant"], GrinderOptions())
    assert moved != certain
    assert interpret(moved, [number(5)])[0] == 6


# Branches.


def test_a_cheap_branch_becomes_a_selection() -> None:
    def chosen(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.cond(b.op("Less", n, 0), lambda: b.op("Neg", x), lambda: (b.op("Exp", x)))

    module = built([INT, ROW], chosen)
    made, notes = edited(module, REWRITES["predicate"], GrinderOptions(branch=1e-3))
    assert If not in kinds(made)
    assert "predicated" in {what for entries in notes.found.values() for what, _ in entries}
    for n in (-1, 1):
        same(module, made, number(n), np.where(X > 4, np.nan, X).astype(np.float32))
    assert If in kinds(edited(module, REWRITES["predicate"], GrinderOptions(branch=0.0))[0])


def test_selecting_large_results_costs_more_than_a_branch() -> None:
    """Half a gigabyte is read once more: 0.13 ms on an H200."""
    large = ("float32", (1 << 27,))
    module = built([INT, large, large], lambda b, n, x, y: b.cond(b.op("Less", n, 0), lambda: x, lambda: y))
    assert If in kinds(edited(module, REWRITES["predicate"], GrinderOptions(branch=0.12e-3))[0])
    assert If not in kinds(edited(module, REWRITES["predicate"], GrinderOptions(branch=0.14e-3))[0])


def test_a_side_that_may_fail_stays_behind_its_condition() -> None:
    def guarded(b: FunctionBuilder, d: Tensor) -> Any:
        return b.cond(b.op("Equal", d, 0), lambda: b.op("Add", d, 7), lambda: b.op("Div", 12, d))

    def indexed(b: FunctionBuilder, i: Tensor, x: Tensor) -> Any:
        return b.cond(b.op("Less", i, 2), lambda: b.op("Gather", x, i), lambda: b.op("Gather", x, number(0)))

    for module in (built([INT], guarded), built([INT, ROW], indexed)):
        assert edited(module, REWRITES["predicate"], GrinderOptions(branch=1.0))[0] == module
        made, _ = edited(module, REWRITES["leading"], GrinderOptions(small=1000))
        assert {type(x) for x in made.main.body.ops[-1:]} == {If}


def test_what_both_sides_start_with_is_computed_once_before_them() -> None:
    def both(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.cond(
            b.op("Less", n, 0), lambda: b.op("Neg", b.op("MatMul", x, W)), lambda: b.op("Abs", b.op("MatMul", x, W))
        )

    module = built([INT, ROW], both)
    made, _ = edited(module, REWRITES["leading"], GrinderOptions(small=0))
    branch = made.main.body.ops[-1]
    assert isinstance(branch, If)
    assert (len(branch.then.ops), len(branch.orelse.ops)) == (1, 1)
    for n in (-1, 1):
        same(module, made, number(n), X)


def test_small_operators_leave_a_branch_up_to_their_size() -> None:
    def side(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.cond(b.op("Less", n, 0), lambda: b.op("MatMul", b.op("Exp", x), W), lambda: x)

    module = built([INT, ROW], side)
    for small, left in ((5, 2), (6, 1), (9, 0)):
        branch = edited(module, REWRITES["leading"], GrinderOptions(small=small))[0].main.body.ops[-1]
        assert isinstance(branch, If)
        assert len(branch.then.ops) == left, "6 elements in x, 9 in the weight"


# Dead and constant states.


def test_a_state_that_only_feeds_itself_is_removed() -> None:
    def trip(b: FunctionBuilder) -> Any:
        return lambda i, used, idle, feeding: (b.op("Sub", used, feeding), b.op("Exp", idle), b.op("Neg", feeding))

    module = built([ROW], lambda b, x: b.for_loop(3, trip(b), x, x, x)[0])
    made, _ = edited(module, REWRITES["dead"])
    assert len(loop_of(made).carried) == 2
    same(module, made, X)


def test_a_state_that_the_condition_needs_stays() -> None:
    def until(b: FunctionBuilder, x: Tensor) -> Any:
        return b.while_loop(
            lambda n, y: b.op("Less", n, 4), lambda n, y: (b.op("Add", n, 1), b.op("Add", y, y)), number(0), x
        )[1]

    module = built([ROW], until)
    made, _ = edited(module, REWRITES["dead"])
    assert len(loop_of(made).carried) == 2
    assert interpret(made, [X])[0].tolist() == (16 * X).tolist()


def test_a_state_that_never_changes_is_read_from_outside() -> None:
    module = built([ROW, ROW], lambda b, x, y: b.for_loop(3, lambda i, s, t: (b.op("Add", s, t), t), x, y))
    made, _ = edited(module, REWRITES["lift"])
    assert len(loop_of(made).carried) == 1
    same(module, made, X, X + 1)


# Functions.


def parity() -> Module:
    """`even` and `odd`, which call each other."""
    m = ModuleBuilder()

    @m.function([INT], [INT])
    def even(b: FunctionBuilder, n: Tensor) -> Any:
        return b.cond(b.op("Equal", n, 0), lambda: b.constant(1), lambda: b.call(odd, b.op("Sub", n, 1)))

    @m.function([INT], [INT])
    def odd(b: FunctionBuilder, n: Tensor) -> Any:
        return b.cond(b.op("Equal", n, 0), lambda: b.constant(0), lambda: b.call(even, b.op("Sub", n, 1)))

    m.entry([INT])(lambda b, n: b.call(even, n))
    return m.build()


def test_functions_that_call_each_other_become_one_that_calls_itself() -> None:
    module = parity()
    made = inline_functions(module, 100, Notes())
    assert len(made.functions) == len(module.functions) - 1
    assert [int(interpret(made, [number(n)])[0]) for n in range(6)] == [1, 0] * 3
    notes = Notes()
    assert inline_functions(module, 3, notes).functions.keys() == module.functions.keys()
    assert any(what == "called" for entries in notes.found.values() for what, _ in entries)
