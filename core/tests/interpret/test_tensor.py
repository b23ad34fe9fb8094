"""The tensor interpreter: orders, rounding, holes, chunks, control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import InputError, InternalError
from tilewright.interpret import tensor
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import Expr, Load, Var, as_expr, cast, const, select
from tilewright.ir.module import Constant, Function, Module
from tilewright.ir.ops import (
    Access,
    Axis,
    Call,
    Combiner,
    If,
    Loop,
    OnnxNode,
    Op,
    Region,
    Routine,
    ScanOp,
    TensorOp,
    Value,
    Write,
    combiner,
    value,
)

AT, J, R = Var("i"), Var("j"), Var("r")


def module(params: list[Value], ops: list[Op], results: list[Value], **constants: Any) -> Module:
    named = {k: Constant(v) for k, v in constants.items()}
    return Module({"main": Function("main", Region(tuple(params), tuple(ops), tuple(results)))}, named)


def axis(var: Var, extent: int, kind: Any = "spatial") -> Axis:
    return Axis(var.name, as_expr(extent), kind)


def pointwise(source: Value, target: Value, body: Expr, index: Expr = AT) -> TensorOp:
    return TensorOp(target.name, (axis(AT, 4),), (Access(source, (AT,)),), (body,), (Write(target, (index,)),))


X = value("x", "float32", [4])
Y = value("y", "float32", [4])
DATA = np.array([1, 2, 3, 4], np.float32)


def test_inputs_go_by_name_or_by_position() -> None:
    m = module([X], [pointwise(X, Y, Load(0, "float32") * 2.0)], [Y])
    named = Module(m.functions, input_names=("the input",))
    for found in (interpret(m, {"x": DATA}), interpret(m, [DATA]), interpret(named, {"the input": DATA})):
        assert found[0].tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "'x' is missing"),
        ({"x": DATA, "z": DATA}, "'z' is no input"),
        ({"x": DATA.astype(np.float64)}, "must be float32"),
        ({"x": DATA[:2]}, r"must be float32 \[4\]"),
        ([DATA, DATA], "takes 1 inputs, 2 are given"),
    ],
)
def test_wrong_inputs_are_refused(inputs: Any, message: str) -> None:
    m = module([X], [pointwise(X, Y, Load(0, "float32"))], [Y])
    with pytest.raises(InputError, match=message):
        interpret(m, inputs)


def test_an_element_that_nothing_writes_is_noticed() -> None:
    wide = value("y", "float32", [9])
    with pytest.raises(InternalError, match=r"Element \[1\] of y is written by no point"):
        interpret(module([X], [pointwise(X, wide, Load(0, "float32"), AT * 2)], [wide]), [DATA])


@pytest.mark.parametrize("index", [AT + 1, AT - 1, AT * 3])
def test_a_read_out_of_range_is_noticed(index: Expr) -> None:
    op = TensorOp("y", (axis(AT, 4),), (Access(X, (index,)),), (Load(0, "float32"),), (Write(Y, (AT,)),))
    with pytest.raises(InternalError, match="A read of x leaves its dimension 0 of 4"):
        interpret(module([X], [op], [Y]), [DATA])


def test_a_guarded_read_touches_nothing_outside() -> None:
    read = Access(X, (AT - 1,), AT >= 1, const(-7.0, "float32"))
    op = TensorOp("y", (axis(AT, 4),), (read,), (Load(0, "float32"),), (Write(Y, (AT,)),))
    assert interpret(module([X], [op], [Y]), [DATA])[0].tolist() == [-7, 1, 2, 3]
    wrong = Access(X, (AT - 1,), AT >= 0, const(-7.0, "float32"))
    op = TensorOp("y", (axis(AT, 4),), (wrong,), (Load(0, "float32"),), (Write(Y, (AT,)),))
    with pytest.raises(InternalError, match="A guarded read of x leaves"):
        interpret(module([X], [op], [Y]), [DATA])


def test_a_write_out_of_range_is_noticed() -> None:
    with pytest.raises(InternalError, match="A write to y leaves its dimension 0 of 4"):
        interpret(module([X], [pointwise(X, Y, Load(0, "float32"), AT + 1)], [Y]), [DATA])


def test_every_write_rounds() -> None:
    half = value("h", "float16", [4])
    third = pointwise(X, half, Load(0, "float32") / 3.0)
    back = pointwise(half, Y, cast(Load(0, "float16"), "float32") * 3.0)
    (out,) = interpret(module([X], [third, back], [Y]), [DATA])
    wanted = (DATA / np.float32(3)).astype(np.float16).astype(np.float32) * np.float32(3)
    assert np.array_equal(out, wanted)
    assert not np.array_equal(out, DATA)


def test_of_duplicates_the_last_in_the_order_of_the_domain_wins() -> None:
    op = TensorOp(
        "y",
        (axis(AT, 3), axis(J, 4)),
        (Access(X, (J,)),),
        (Load(0, "float32") + cast(AT * 10, "float32"),),
        (Write(Y, (J // 2,), base=X, ordered=True),),
    )
    assert interpret(module([X], [op], [Y]), [DATA])[0].tolist() == [22, 24, 3, 4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_updates_accumulate(dtype: str) -> None:
    base, out = value("b", dtype, [2]), value("y", dtype, [2])
    op = TensorOp(
        "y",
        (axis(AT, 4),),
        (Access(X, (AT,)),),
        (cast(Load(0, "float32"), dtype),),
        (Write(out, (AT % 2,), update=combiner("sum", dtype), base=base),),
    )
    (found,) = interpret(module([X, base], [op], [out]), [DATA, np.array([100, 200]).astype(value_dtype(dtype))])
    assert found.astype(np.float64).tolist() == [104, 206]


def value_dtype(name: str) -> np.dtype[Any]:
    from tilewright.ir import dtypes

    return dtypes.to_numpy(name)


def test_an_update_by_a_combiner_that_numpy_does_not_know() -> None:
    # Later values count double: neither a NumPy function nor commutative.
    a, b = Var("a0", "float32"), Var("b0", "float32")
    how = Combiner("later", (const(0.0, "float32"),), (a + b * 2.0,), associative=False, commutative=False)
    op = TensorOp(
        "y",
        (axis(AT, 4),),
        (Access(X, (AT,)),),
        (Load(0, "float32"),),
        (Write(Y, (AT * 0,), update=how, base=X, ordered=True),),
    )
    assert interpret(module([X], [op], [Y]), [DATA])[0].tolist() == [1 + 2 * (1 + 2 + 3 + 4), 2, 3, 4]


def _argmax() -> Combiner:
    a, b = (Var("a0"), Var("a1", "float32")), (Var("b0"), Var("b1", "float32"))
    later = b[1] > a[1]
    return Combiner(
        "argmax",
        (const(-1), const(float("-inf"), "float32")),
        (select(later, b[0], a[0]), select(later, b[1], a[1])),
        commutative=False,
    )


@pytest.mark.parametrize("limit", [1, 3, 7, 1 << 22])
def test_chunks_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor, "_POINTS", limit)
    monkeypatch.setattr(tensor, "_FACTOR", limit)
    rng = np.random.default_rng(0)
    a, b = rng.integers(-5, 5, (3, 5)).astype(np.float32), rng.integers(-5, 5, (5, 4)).astype(np.float32)
    va, vb = value("a", "float32", [3, 5]), value("b", "float32", [5, 4])
    product, best = value("p", "float32", [3, 4]), value("k", "int64", [3])
    depth = Axis("r", as_expr(5), "reduce")
    matmul = TensorOp(
        "p",
        (axis(AT, 3), axis(J, 4), depth),
        (Access(va, (AT, R)), Access(vb, (R, J))),
        (Load(0, "float32") * Load(1, "float32"),),
        (Write(product, (AT, J)),),
        combiner("sum", "float32"),
    )
    argmax = TensorOp(
        "k", (axis(AT, 3), depth), (Access(va, (AT, R)),), (R, Load(0, "float32")), (Write(best, (AT,)),), _argmax()
    )
    found = interpret(module([va, vb], [matmul, argmax], [product, best]), [a, b])
    assert np.array_equal(found[0], a @ b)
    assert np.array_equal(found[1], a.argmax(1))


def test_a_reduction_over_nothing_is_the_identity() -> None:
    source, target = value("a", "float32", [2, 0]), value("y", "float32", [2])
    for how, wanted in (("sum", 0.0), ("prod", 1.0), ("max", -np.inf)):
        op = TensorOp(
            "y",
            (axis(AT, 2), Axis("r", as_expr(0), "reduce")),
            (Access(source, (AT, R)),),
            (Load(0, "float32"),),
            (Write(target, (AT,)),),
            combiner(how, "float32"),  # type: ignore[arg-type]
        )
        (out,) = interpret(module([source], [op], [target]), [np.zeros((2, 0), np.float32)])
        assert out.tolist() == [wanted, wanted]


@given(st.data())
def test_products_through_matrix_multiplication_are_the_same_as_point_by_point(data: st.DataObject) -> None:
    names = ["i", "j", "k", "r", "q"]
    extents = {n: data.draw(st.integers(1, 3)) for n in names}
    sides = [[n for n in names if data.draw(st.booleans())] for _ in range(2)]
    dtype = data.draw(st.sampled_from(["float32", "int32", "int8"]))
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 4, [extents[n] for n in s]).astype(dtype) for s in sides]
    values = [value(v, dtype, list(x.shape)) for v, x in zip("ab", arrays, strict=True)]
    axes = [Axis(n, as_expr(extents[n]), "reduce" if n in "rq" else "spatial") for n in names]
    out = value("y", "int32" if dtype == "int8" else dtype, [extents[n] for n in "ijk"])

    def op(body: Expr) -> TensorOp:
        reads = tuple(Access(v, tuple(Var(n) for n in s)) for v, s in zip(values, sides, strict=True))
        return TensorOp("y", tuple(axes), reads, (body,), (Write(out, (AT, J, Var("k"))),), combiner("sum", body.dtype))

    a, b = (cast(Load(n, dtype), out.dtype) for n in range(2))
    fast = interpret(module(values, [op(a * b)], [out]), arrays)
    slow = interpret(module(values, [op(-(-a * b))], [out]), arrays)
    assert fast[0].dtype == slow[0].dtype
    assert np.array_equal(fast[0], slow[0])


def test_sums_of_float32_do_not_depend_on_the_order() -> None:
    x = value("x", "float32", [30001])
    y = value("y", "float32", [])
    total = TensorOp(
        "y", (Axis("r", as_expr(30001), "reduce"),), (Access(x, (R,)),), (Load(0, "float32"),), (Write(y, ()),),
        combiner("sum", "float32"),
    )  # fmt: skip
    data = np.full(30001, 0.1, np.float32)
    data[0] = 1e7
    (out,) = interpret(module([x], [total], [y]), [data])
    assert out == np.float32(data.astype(np.float64).sum())


def test_a_scan_keeps_its_order() -> None:
    out = value("y", "float32", [4])
    before = Var("p0", "float32")
    op = ScanOp(
        "y", (), Axis("t", as_expr(4)), (Access(X, (Var("t"),)),), (const(1.0, "float32"),),
        (before * 2.0 + Load(0, "float32"),), (Var("s0", "float32") - before,), (Write(out, (3 - Var("t"),)),),
    )  # fmt: skip
    state, wanted = 1.0, []
    for x in DATA:
        new = state * 2 + x
        wanted.append(new - state)
        state = new
    assert interpret(module([X], [op], [out]), [DATA])[0].tolist() == wanted[::-1]


# Control flow.


def scalar(name: str, dtype: str) -> Value:
    return value(name, dtype, [])


def test_a_loop_carries_collects_and_stops() -> None:
    number, going, state = scalar("n", "int64"), scalar("g", "bool"), value("s", "float32", [4])
    more, doubled = scalar("more", "bool"), value("d", "float32", [4])
    stop = TensorOp("more", (), (Access(number, ()),), (Load(0, "int64") < 2,), (Write(more, ()),))
    body = Region(
        (number, going, state), (stop, pointwise(state, doubled, Load(0, "float32") * 2.0)), (more, doubled, doubled)
    )
    last, rows = value("last", "float32", [4]), value("rows", "float32", [3, 4])
    trip = scalar("trip", "int64")
    loop = Loop("loop", trip, None, (X,), (last, rows), body)
    m = module([X, trip], [loop], [last, rows])
    found = interpret(m, [DATA, np.asarray(9)])
    assert found[0].tolist() == (DATA * 8).tolist()
    assert found[1].tolist() == [(DATA * 2**k).tolist() for k in (1, 2, 3)]
    never = interpret(m, [DATA, np.asarray(0)])
    assert never[0].tolist() == DATA.tolist()
    assert never[1].shape == (3, 4)  # there is room up to the bound; how many rows count is a value of its own


def test_a_branch_and_a_recursive_call() -> None:
    def function(name: str) -> Function:
        n, less = scalar("n", "int64"), scalar("less", "int64")
        stop, one, product = scalar("stop", "bool"), scalar("one", "int64"), scalar("product", "int64")
        deeper, result = scalar("deeper", "int64"), scalar("result", "int64")
        test = TensorOp("stop", (), (Access(n, ()),), (Load(0, "int64") <= 1,), (Write(stop, ()),))
        base = Region((), (TensorOp("one", (), (), (const(1),), (Write(one, ()),)),), (one,))
        step = Region(
            (),
            (
                TensorOp("less", (), (Access(n, ()),), (Load(0, "int64") - 1,), (Write(less, ()),)),
                Call("deeper", name, (less,), (deeper,)),
                TensorOp(
                    "product",
                    (),
                    (Access(n, ()), Access(deeper, ())),
                    (Load(0, "int64") * Load(1, "int64"),),
                    (Write(product, ()),),
                ),
            ),
            (product,),
        )
        return Function(name, Region((n,), (test, If("if", stop, base, step, (result,))), (result,)))

    n, out = scalar("k", "int64"), scalar("out", "int64")
    main = Function("main", Region((n,), (Call("call", "factorial", (n,), (out,)),), (out,)))
    m = Module({"main": main, "factorial": function("factorial")})
    assert interpret(m, [np.asarray(6)])[0] == 720


def test_what_has_no_meaning_is_refused() -> None:
    node = OnnxNode("n", "Relu", "", 18, (X,), (Y,))
    with pytest.raises(InternalError, match="legalise it first"):
        interpret(module([X], [node], [Y]), [DATA])
    with pytest.raises(InternalError, match="of the kind 'nothing'"):
        interpret(module([X], [Routine("r", "nothing", (X,), (Y,))], [Y]), [DATA])


@pytest.mark.parametrize("largest", [True, False])
def test_top_k_is_sorted_and_stable(largest: bool) -> None:
    data = np.array([[3, 1, 3, 2, 1]], np.float32)
    x, v, k = value("x", "float32", [1, 5]), value("v", "float32", [1, 4]), value("k", "int64", [1, 4])
    op = Routine("v", "topk", (x,), (v, k), {"count": 4, "largest": largest})
    values, places = interpret(module([x], [op], [v, k]), [data])
    assert values.tolist() == ([[3, 3, 2, 1]] if largest else [[1, 1, 2, 3]])
    assert places.tolist() == ([[0, 2, 3, 1]] if largest else [[1, 4, 3, 0]])
