"""Every law of modules: the sample keeps it, and a module that breaks it is refused with law and place named."""

# ruff: noqa: E501  (the tables have one case per line)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given

from core.tests.ir import samples
from core.tests.ir.samples import axes, value
from core.tests.ir.strategies import modules
from tilewright.errors import VerifyError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, all_of, apply, cast, const, maximum, select
from tilewright.ir.module import Constant, Function, Module, Symbol
from tilewright.ir.ops import Access, Axis, Combiner, Op, Region, TensorOp, Value, Write, combiner
from tilewright.ir.verify import accesses, combiners, coverage, exprs, module, operators, verify_module
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.operators import check_tensor

SAMPLE = samples.module()


def refused(broken: Callable[[], object], law: str, *places: str) -> None:
    with pytest.raises(VerifyError) as caught:
        broken()
    text = str(caught.value)
    assert law in text, text
    for place in places:
        assert place in text, text


def changed(name: str, **changes: Any) -> Module:
    """The sample with some fields of one operator of `main` changed."""
    body = SAMPLE.main.body
    assert name in [x.name for x in body.ops]
    ops = tuple(attrs.evolve(x, **changes) if x.name == name else x for x in body.ops)
    return SAMPLE.with_main(attrs.evolve(body, ops=ops))


def operator(name: str) -> Any:
    return next(x for x in SAMPLE.main.body.ops if x.name == name)


def test_the_sample_keeps_all_laws() -> None:
    verify_module(SAMPLE)


@given(modules())
def test_random_modules_keep_all_laws(made: Module) -> None:
    verify_module(made)


CONV: TensorOp = operator("conv")
READ, WEIGHT = CONV.reads
WRITE = CONV.writes[0]
n, c, h, w, k, r, s = (a.var for a in CONV.axes)


def with_read(**changes: Any) -> Module:
    return changed("conv", reads=(attrs.evolve(READ, **changes), WEIGHT))


def with_write(**changes: Any) -> Module:
    return changed("conv", writes=(attrs.evolve(WRITE, **changes),))


def with_body(body: Expr) -> Module:
    return changed("conv", body=(body,))


x, y = Load(0, "float16"), Load(1, "float16")
OPERATORS: dict[str, tuple[Callable[[], Module], str, str]] = {
    "axis named twice": (lambda: changed("conv", axes=(*CONV.axes[:3], Axis("n", const(8)), *CONV.axes[4:])), operators.AXES, "axis n"),
    "axis named like a symbol": (lambda: changed("act", axes=(Axis("N", const(1)), *operator("act").axes[1:])), operators.AXES, "axis N"),
    "reduce before spatial": (lambda: changed("conv", axes=(CONV.axes[4], *CONV.axes[:4], *CONV.axes[5:])), operators.ORDER, "axis n"),
    "unbounded extent": (lambda: changed("conv", axes=(Axis("n", Var("M")), *CONV.axes[1:])), exprs.SCOPE, "axis n"),
    "negative extent": (lambda: changed("conv", axes=(Axis("n", Var("N") - 9), *CONV.axes[1:])), exprs.EXTENTS, "axis n"),
    "extent of int32": (lambda: changed("conv", axes=(Axis("n", const(1, "int32")), *CONV.axes[1:])), exprs.EXTENTS, "axis n"),
    "rank": (lambda: with_read(index=(n, k, h)), operators.RANK, "read 0 of x"),
    "write rank": (lambda: with_write(index=(n, c, h)), operators.RANK, "write 0"),
    "index of int32": (lambda: with_read(index=(n, k, h, const(0, "int32"))), "index is int64", "read 0 of x"),
    "guard of int64": (lambda: with_read(guard=h), "guard is bool", "read 0 of x"),
    "fill of another dtype": (lambda: with_read(fill=const(0.0, "float32")), operators.FILL, "read 0 of x"),
    "guard without fill": (lambda: with_read(fill=None), operators.FILL, "read 0 of x"),
    "fill without guard": (lambda: with_read(guard=None), operators.FILL, "read 0 of x"),
    "variable out of scope": (lambda: with_body(Var("q", "float32")), exprs.SCOPE, "body 0"),
    "load of a read that is not there": (lambda: with_body(Load(2, "float32")), exprs.SCOPE, "body 0"),
    "load of another dtype": (lambda: with_body(Load(0, "float32")), exprs.TYPES, "body 0"),
    "variable of another dtype": (lambda: with_body(cast(Var("n", "int32"), "float32")), exprs.TYPES, "body 0"),
    "index that loads a later read": (lambda: with_read(index=(n, cast(y, "int64"), h, w)), exprs.SCOPE, "read 0 of x"),
    "operands of two dtypes": (lambda: with_body(Apply("add", (x, const(1.0, "float32")), "float32")), exprs.TYPES, "body 0"),
    "result of another dtype": (lambda: with_body(Apply("add", (x, y), "float32")), exprs.TYPES, "body 0"),
    "wrong arity": (lambda: with_body(Apply("add", (x,), "float16")), exprs.TYPES, "body 0"),
    "unknown operator": (lambda: with_body(Apply("frob", (x,), "float16")), exprs.TYPES, "body 0"),
    "operator not defined on floats": (lambda: with_body(Apply("shl", (x, y), "float16")), exprs.TYPES, "body 0"),
    "condition that is no bool": (lambda: with_body(Apply("select", (n, x, y), "float16")), exprs.TYPES, "body 0"),
    "bitcast of another width": (lambda: with_body(Apply("bitcast", (x,), "float32")), exprs.TYPES, "body 0"),
    "literal out of range": (lambda: with_body(cast(Apply("neg", (Const(300, "int8"),), "int8"), "float32")), exprs.TYPES, "body 0"),
    "float literal of int64": (lambda: with_body(cast(Apply("neg", (Const(1.5, "int64"),), "int64"), "float32")), exprs.TYPES, "body 0"),
    "body of another dtype than the state": (lambda: with_body(x * y), operators.REDUCE, "tensor conv"),
    "combiner without reduce axes": (lambda: changed("act", combiner=combiner("sum", "float16")), operators.REDUCE, "tensor act"),
    "reduce axes without combiner": (lambda: changed("conv", combiner=None), operators.REDUCE, "tensor conv"),
    "two bodies for one state": (lambda: changed("conv", body=CONV.body * 2), operators.REDUCE, "tensor conv"),
    "integer value of a float state": (lambda: with_write(value=value("/conv/y", "int32", [1, 4, 8, 8])), operators.STATES, "write 0"),
    "more writes than states": (lambda: changed("conv", writes=(WRITE, attrs.evolve(WRITE, value=value("z2", "float16", [1, 4, 8, 8])))), operators.STATES, "write 1"),
    "no write": (lambda: changed("conv", writes=()), operators.STATES, "tensor conv"),
    "write at a reduce axis": (lambda: with_write(index=(n, r, h, w)), operators.INVARIANT, "write 0"),
    "write at a reduced load": (lambda: with_write(index=(n, cast(x, "int64"), h, w)), operators.INVARIANT, "write 0"),
    "update without base": (lambda: changed("histogram", writes=(attrs.evolve(operator("histogram").writes[0], base=None),)), operators.BASE, "write 0"),
    "update of another dtype": (lambda: changed("histogram", writes=(attrs.evolve(operator("histogram").writes[0], update=combiner("sum", "int32")),)), operators.BASE, "write 0"),
    "base of another shape": (lambda: changed("histogram", writes=(attrs.evolve(operator("histogram").writes[0], base=operator("act").outputs[0], update=None),)), operators.BASE, "write 0"),
    "in place of what is not read": (lambda: changed("act", inplace="x"), operators.INPLACE, "tensor act"),
    "in place of another dtype": (lambda: changed("conv", inplace="x"), operators.INPLACE, "tensor conv"),
    "read beyond the end": (lambda: with_read(index=(n, k, h + 8, w), guard=None, fill=None), accesses.LAW, "dimension 2"),
    "read before the beginning somewhere": (lambda: with_read(index=(n, k, h - 1, w), guard=None, fill=None), accesses.LAW, "dimension 2"),
    "guard that allows one point too many": (lambda: with_read(guard=all_of(h + r >= 1, h + r - 1 <= 8, w + s >= 1, w + s <= 8)), accesses.LAW, "h = "),
    "write out of range": (lambda: with_write(index=(n, c + 1, h, w)), accesses.LAW, "write 0"),
    "two points write one element": (lambda: with_write(index=(n, const(0), h, w)), coverage.LAW, "write 0"),
    "elements left out": (lambda: with_write(guard=c < 3), coverage.LAW, "write 0"),
    "scan with a step too many": (lambda: changed("cumsum", step=operator("cumsum").step * 2), operators.SCAN, "scan cumsum"),
    "scan that starts from the scanned": (lambda: changed("cumsum", init=(cast(x, "float32"),)), operators.SCAN, "init 0"),
    "step of another dtype": (lambda: changed("cumsum", step=(x,)), "step 0 is float32", "step 0"),
    "step that uses the state after it": (lambda: changed("cumsum", step=(Var("s0", "float32"),)), exprs.SCOPE, "step 0"),
    "routine parallel over too many": (lambda: changed("top", parallel=4), module.ROUTINE, "routine top"),
    "routine without outputs": (lambda: changed("top", outputs=()), module.ROUTINE, "routine top"),
    "workspace without bound": (lambda: changed("top", workspace=Var("M")), exprs.SCOPE, "workspace"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERATORS)
def test_broken_operators_are_refused(case: str) -> None:
    make, law, place = OPERATORS[case]
    refused(lambda: verify_module(make()), law, place, "module, function main")


LOOP, BRANCH, CALL = operator("repeat"), operator("choose"), operator("choose").orelse.ops[0]
scalar = value("scalar", "int64", [])


def with_call(**changes: Any) -> Module:
    return changed("choose", orelse=attrs.evolve(BRANCH.orelse, ops=(attrs.evolve(CALL, **changes),)))


def with_loop_body(**changes: Any) -> Module:
    return changed("repeat", body=attrs.evolve(LOOP.body, **changes))


def with_ops(change: Callable[[tuple[Op, ...]], tuple[Op, ...]]) -> Module:
    body = SAMPLE.main.body
    return SAMPLE.with_main(attrs.evolve(body, ops=change(body.ops)))


BODY = LOOP.body
STRUCTURE: dict[str, tuple[Callable[[], Module], str, str]] = {
    "operators swapped": (lambda: with_ops(lambda o: (o[1], o[0], *o[2:])), module.DEFINED, "tensor act"),
    "operator twice": (lambda: with_ops(lambda o: (o[0], *o)), module.SINGLE, "tensor conv"),
    "value defined twice": (lambda: with_ops(lambda o: (o[0], attrs.evolve(o[0], name="other"), *o[1:])), module.SINGLE, "tensor other"),
    "value used as of another shape": (lambda: with_ops(lambda o: (o[0], samples.elementwise("act", value("/conv/y", "float16", [4, 8, 8]), value("z", "float16", [4, 8, 8])), *o[2:])), module.DEFINED, "tensor act"),
    "result not defined": (lambda: SAMPLE.with_main(attrs.evolve(SAMPLE.main.body, results=(scalar,) * 3)), module.DEFINED, "results"),
    "length of nothing": (lambda: attrs.evolve(SAMPLE, lengths={"y": "n"}), module.LENGTHS, "'y' is no output"),
    "results not named": (lambda: attrs.evolve(SAMPLE, output_names=("a",)), module.NAMES, "1 output names for 3"),
    "no entry": (lambda: attrs.evolve(SAMPLE, entry="other"), module.ENTRY, "'other'"),
    "function under another name": (lambda: attrs.evolve(SAMPLE, functions={**SAMPLE.functions, "f": Function("g", Region((), (), ()))}), module.ENTRY, "'g'"),
    "symbol twice": (lambda: attrs.evolve(SAMPLE, symbols=SAMPLE.symbols * 2), module.SINGLE, "'N'"),
    "symbol without values": (lambda: attrs.evolve(SAMPLE, symbols=(Symbol("N", 3, 2),)), module.SYMBOLS, "symbol N"),
    "parameter named like a constant": (lambda: attrs.evolve(SAMPLE, constants={**SAMPLE.constants, "x": Constant(np.zeros(1))}), module.SINGLE, "parameter x"),
    "loop condition that is no bool": (lambda: changed("repeat", condition=LOOP.trip), module.LOOP, "loop repeat"),
    "loop without the carried parameter": (lambda: with_loop_body(params=BODY.params[:2]), module.LOOP, "loop repeat"),
    "loop that returns no condition": (lambda: with_loop_body(results=(BODY.results[1], *BODY.results[1:])), module.LOOP, "loop repeat"),
    "loop that carries another shape": (lambda: changed("repeat", carried=(operator("act").outputs[0],)), module.LOOP, "carried value 0"),
    "scan output of another shape": (lambda: changed("repeat", outputs=(LOOP.outputs[0], LOOP.outputs[0])), module.LOOP, "loop repeat"),
    "iteration number that is no integer": (lambda: with_loop_body(params=(BODY.params[1], *BODY.params[1:])), module.LOOP, "iteration number"),
    "branch on an integer": (lambda: changed("choose", condition=LOOP.trip), module.IF, "if choose"),
    "branch with another result": (lambda: changed("choose", then=attrs.evolve(BRANCH.then, results=(operator("act").outputs[0],))), module.IF, "result of then 0"),
    "branch with parameters": (lambda: changed("choose", then=attrs.evolve(BRANCH.then, params=(scalar,))), module.IF, "then"),
    "call of nothing": (lambda: with_call(function="other"), module.CALL, "'other'"),
    "call with too few operands": (lambda: with_call(inputs=()), module.CALL, "0 operands"),
    "call with another shape": (lambda: with_call(inputs=operator("act").outputs), module.CALL, "operand 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRUCTURE)
def test_broken_structure_is_refused(case: str) -> None:
    make, law, place = STRUCTURE[case]
    refused(lambda: verify_module(make()), law, place, "module")


def mean_and_count(identity: int = 0) -> Combiner:
    """Welford's merge of (mean, squares, count)."""
    a, b = ([Var(f"{side}{i}", "float32") for i in range(3)] for side in "ab")
    count = a[2] + b[2]
    delta = b[0] - a[0]
    mean = a[0] + delta * b[2] / count
    squares = a[1] + b[1] + delta * delta * a[2] * b[2] / count
    zero = const(0.0, "float32")
    return Combiner("welford", (const(identity, "float32"), zero, zero), (mean, squares, count))


def shifted_sum() -> Combiner:
    return attrs.evolve(combiner("sum", "float32"), identity=(const(1.0, "float32"),))


def left_only() -> Combiner:
    """Keeps the later state unless it is the identity: neutral on the right side only."""
    a, b = Var("a0", "int64"), Var("b0", "int64")
    return Combiner("later", (const(0),), (select(apply("eq", b, const(0)), a, apply("max", a - 0, b * 0 + a)),))


@pytest.mark.parametrize(
    "good", [combiner("sum", "float16"), combiner("max", "int8"), combiner("and", "bool"), mean_and_count(), samples.argmax_combiner()]
)  # fmt: skip
def test_good_identities_pass(good: Combiner) -> None:
    combiners.check_combiner(good, Place("test"))


@pytest.mark.parametrize("bad", [shifted_sum(), left_only(), attrs.evolve(combiner("max", "int8"), identity=(const(0, "int8"),)), attrs.evolve(combiner("min", "float32"), identity=(const(0.0, "float32"),))])  # fmt: skip
def test_identities_that_change_a_state_are_refused(bad: Combiner) -> None:
    refused(lambda: combiners.check_combiner(bad, Place("test")), combiners.IDENTITY, f"combiner {bad.name}")


def test_ill_formed_combiners_are_refused() -> None:
    plain = combiner("sum", "float32")
    cases = [
        (attrs.evolve(plain, combine=()), combiners.STATES),
        (attrs.evolve(plain, combine=(Var("a0", "float32") + Var("c0", "float32"),)), exprs.SCOPE),
        (attrs.evolve(plain, identity=(const(0.0, "float16"),)), exprs.TYPES),
    ]
    for bad, law in cases:
        refused(lambda bad=bad: combiners.check_combiner(bad, Place("test")), law)  # type: ignore[misc]


def check(over: tuple[Axis, ...], read: Access, write: Write, body: Expr | None = None) -> None:
    op = TensorOp("op", over, (read,), (Load(0, read.value.dtype) if body is None else body,), (write,))
    check_tensor(op, {"N": Interval(1, 64), "M": Interval(2, 8)}, Place("test"))


N, M, i, j = Var("N"), Var("M"), Var("i"), Var("j")
one = value("one", "float32", [1])


def target(*shape: Expr | int) -> Value:
    return value("t", "float32", list(shape))


ONTO: dict[str, tuple[tuple[Axis, ...], Write]] = {
    "permutation": (axes("i j", 3, 5), Write(target(5, 3), (j, i))),
    "join": (axes("i j", 12, 64), Write(target(768), (i * 64 + j,))),
    "split": (axes("i", 768), Write(target(12, 64), (i // 64, i % 64))),
    "split in three": (axes("i", 24), Write(target(2, 3, 4), (i // 12, i // 4 % 3, i % 4))),
    "split and join": (axes("i j", 6, 4), Write(target(2, 12), (i // 3, i % 3 * 4 + j))),
    "one point": (axes("i j", 1, 5), Write(target(5, 1), (j, const(0)))),
    "axis of one point in a sum": (axes("i j", 1, 5), Write(target(5), (i * 7 + j,))),
    "symbolic": (axes("i j", N, M), Write(target(N, M), (i, j))),
    "symbolic join": (axes("i j", N, 4), Write(target(N * 4), (i * 4 + j,))),
    "symbolic stride": (axes("i j", 3, M), Write(target(M * 3), (i * M + j,))),
    "tail": (axes("i j", 13, 8), Write(target(100), (i * 8 + j,), i * 8 + j < 100)),
    "symbolic tail": (axes("i j", (N + 7) // 8, 8), Write(target(N), (i * 8 + j,), i * 8 + j < N)),
    "counted": (axes("i j", 4, 4), Write(target(4, 4), (i, (i + j) % 4))),
    "reversed": (axes("i", 5), Write(target(5), (const(4) - i,))),
    "empty": (axes("i", 0), Write(target(0), (i,))),
}


@pytest.mark.parametrize("case", ONTO)
def test_writes_that_cover_their_value_pass(case: str) -> None:
    over, write = ONTO[case]
    check(over, Access(one, (const(0),)), write)


NOT_ONTO: dict[str, tuple[tuple[Axis, ...], Write]] = {
    "stride too large": (axes("i j", 3, 5), Write(target(18), (i * 6 + j,))),
    "stride too small": (axes("i j", 3, 5), Write(target(15), (i * 4 + j,))),
    "every second": (axes("i", 5), Write(target(10), (i * 2,))),
    "half of it": (axes("i", 5), Write(target(10), (i,))),
    "diagonal": (axes("i", 5), Write(target(5, 5), (i, i))),
    "lost digit": (axes("i", 24), Write(target(2, 4), (i // 12, i % 4))),
    "digits overlap": (axes("i", 24), Write(target(12, 4), (i // 2, i % 4))),
    "symbolic, twice": (axes("i j", N, M), Write(target(N), (i,))),
    "guard too tight": (axes("i j", 13, 8), Write(target(100), (i * 8 + j,), i * 8 + j < 99)),
    "another guard": (axes("i j", N, M), Write(target(N, M), (i, j), i + j < N)),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_ONTO)
def test_writes_that_do_not_cover_their_value_once_are_refused(case: str) -> None:
    over, write = NOT_ONTO[case]
    refused(lambda: check(over, Access(one, (const(0),)), write), coverage.LAW, "write 0")


def test_a_scatter_without_base_is_refused() -> None:
    places = value("places", "int64", [4])
    index = maximum(apply("min", Load(0, "int64"), const(3)), const(0))
    op = TensorOp(
        "op", axes("i", 4), (Access(places, (i,)),), (Load(0, "int64"),), (Write(value("t", "int64", [4]), (index,)),)
    )
    refused(lambda: check_tensor(op, {}, Place("test")), coverage.LAW, "depends on data")


INSIDE: dict[str, tuple[tuple[Axis, ...], Access]] = {
    "affine": (axes("i j", 4, 3), Access(value("v", "float32", [12]), (i * 3 + j,))),
    "cancelling": (axes("i j", 4, 3), Access(value("v", "float32", [3]), (i + j - i,))),
    "symbolic": (axes("i j", N, M), Access(value("v", "float32", [N, M]), (i, j))),
    "symbolic reversed": (axes("i", N), Access(value("v", "float32", [N]), (N - 1 - i,))),
    "symbolic padded": (axes("i", N + 2), Access(value("v", "float32", [N]), (i - 1,), all_of(i >= 1, i < N + 1), const(0.0, "float32"))),
    "guarded half": (axes("i", 8), Access(value("v", "float32", [4]), (i - 4,), i >= 4, const(0.0, "float32"))),
    "guarded by not": (axes("i", 8), Access(value("v", "float32", [4]), (i - 4,), apply("not", i < 4), const(0.0, "float32"))),
    "strided and guarded": (axes("i j", 8, 3), Access(value("v", "float32", [8]), ((i + 1 - j) // 2,), all_of(i + 1 - j >= 0, i + 1 - j < 16), const(0.0, "float32"))),
    "clamped": (axes("i", 8), Access(value("v", "float32", [4]), (maximum(apply("min", i - 2, const(3)), const(0)),))),
    "modulo": (axes("i", 100), Access(value("v", "float32", [7]), (i % 7,))),
    "guard that is false": (axes("i", 4), Access(value("v", "float32", [4]), (const(-2),), const(False, "bool"), const(0.0, "float32"))),
    "guard that never holds": (axes("i", 4), Access(value("v", "float32", [4]), (i + 9,), i < 0, const(0.0, "float32"))),
}  # fmt: skip


@pytest.mark.parametrize("case", INSIDE)
def test_reads_in_range_pass(case: str) -> None:
    over, read = INSIDE[case]
    check(over, read, Write(value("t", "float32", [x.extent for x in over]), tuple(x.var for x in over)))


OUTSIDE: dict[str, tuple[tuple[Axis, ...], Access]] = {
    "affine": (axes("i j", 4, 3), Access(value("v", "float32", [11]), (i * 3 + j,))),
    "symbolic": (axes("i", N), Access(value("v", "float32", [M]), (i,))),
    "symbolic by one": (axes("i", N), Access(value("v", "float32", [N]), (i + 1,))),
    "guard by one": (axes("i", 8), Access(value("v", "float32", [4]), (i - 4,), i >= 3, const(0.0, "float32"))),
    "modulo": (axes("i", 100), Access(value("v", "float32", [6]), (i % 7,))),
    "gathered from nowhere": (axes("i", 4), Access(value("v", "float32", [4]), (i + 4,))),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_reads_out_of_range_are_refused(case: str) -> None:
    over, read = OUTSIDE[case]
    write = Write(value("t", "float32", [x.extent for x in over]), tuple(x.var for x in over))
    refused(lambda: check(over, read, write), accesses.LAW, "read 0 of v")


def test_messages_of_very_large_expressions_stay_short() -> None:
    body: Expr = Load(0, "float16")
    for _ in range(60):
        body = body * body + body
    with pytest.raises(VerifyError) as caught:
        verify_module(with_body(Apply("frob", (body,), "float16")))
    assert len(str(caught.value)) < 500
