"""What is printed reads back as it was, and what cannot be read is refused with line, column and expectation."""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given

from core.tests.ir import samples
from core.tests.ir.strategies import LOADS, VARIABLES, any_expr, modules
from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, apply, bitcast, cast, const, select
from tilewright.ir.module import Module
from tilewright.ir.ops import If, Location, Loop, OnnxNode, Region, value
from tilewright.ir.text import (
    ParseError,
    Scope,
    parse_expr,
    parse_module,
    print_choice,
    print_cover,
    print_expr,
    print_module,
    print_op,
    print_program,
)
from tilewright.ir.text.parse_exprs import Names

SCOPE = Scope(VARIABLES, LOADS)
NAMES = Names(VARIABLES, LOADS)


def without_locations(region: Region) -> Region:
    ops = []
    for op in region.ops:
        op = attrs.evolve(op, loc=Location())
        if isinstance(op, Loop):
            op = attrs.evolve(op, body=without_locations(op.body))
        if isinstance(op, If):
            op = attrs.evolve(op, then=without_locations(op.then), orelse=without_locations(op.orelse))
        ops.append(op)
    return attrs.evolve(region, ops=tuple(ops))


@given(any_expr)
def test_expressions_read_back(expr: Expr) -> None:
    for known in (None, expr.dtype, "int64"):
        text = print_expr(expr, known, SCOPE)
        assert parse_expr(text, known, NAMES) == expr, text


@given(modules())
def test_random_modules_read_back(module: Module) -> None:
    text = print_module(module)
    assert parse_module(text, module.constants) == module
    assert print_module(parse_module(text, module.constants)) == text


def test_the_sample_module_reads_back_up_to_locations() -> None:
    module = samples.module()
    wanted = module.with_main(without_locations(module.main.body))
    assert parse_module(print_module(module), module.constants) == wanted


i, j, f, h = Var("i"), Var("j"), Var("a0", "float32"), Load(2, "float16")


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (i * 64 + j, "i * 64 + j"),
        ((i + 1) * 2 - 3, "(i + 1) * 2 - 3"),
        (i - (j - 1), "i - (j - 1)"),
        (i // 4 % 2, "i // 4 % 2"),
        (const(3) <= i, "i >= 3"),
        (apply("and", i < j, apply("or", i < 2, apply("not", j < 3))), "i < j and (i < 2 or not j < 3)"),
        (apply("eq", i < j, const(True, "bool")), "(i < j) == true"),
        (select(i < 3, f, 0.5), "select(i < 3, a0, 0.5)"),
        (h * 0.1, "%2 * 0.1"),
        (cast(h, "float32") * f, "float32(%2) * a0"),
        (bitcast(f, "int32"), "bitcast(a0, int32)"),
        (const(0.1, "float16"), "0.1:float16"),
        (const(float("-inf"), "float32"), "-inf"),
        (Apply("neg", (const(3),), "int64"), "neg(3)"),
        (Apply("sub", (i, const(3)), "int64"), "sub(i, 3)"),
        (-(i + j), "-(i + j)"),
        (Var("x y"), '"x y"'),
        (Var("not"), '"not"'),
        (Var("m", "int32") + 1, "m + 1"),
        (Var("z", "int32") + 1, "z:int32 + 1"),
    ],
)
def test_expressions_look_natural(expr: Expr, text: str) -> None:
    assert print_expr(expr, None, SCOPE) == text
    assert parse_expr(text, None, attrs.evolve(NAMES, variables={**VARIABLES, "not": "int64"})) == expr


def test_either_way_of_comparing_is_read() -> None:
    assert parse_expr("3 <= i") == parse_expr("i >= 3")
    assert parse_expr("i > j") == parse_expr("j < i")


@pytest.mark.parametrize(
    ("text", "column", "expected", "found"),
    [
        ("i + ", 5, "an expression", "the end of the line"),
        ("i + * j", 5, "an expression", "'*'"),
        ("(i", 3, "')'", "the end of the line"),
        ("i i", 3, "the end of the expression", "'i'"),
        ("frob(i)", 1, "an operator or a dtype", "'frob'"),
        ("min(i)", 1, "2 operands", "1 operands"),
        ("i + 1.5", 5, "a literal of int64", "1.5"),
        ("i + a0", 3, "operands of one dtype", "int64, float32"),
        ("a0 // a0", 4, "operands on which floordiv is defined", "float32, float32"),
        ("q + 1", 1, "in scope", "'q'"),
        ("%9", 1, "one of the 6 reads", "%9"),
        ("$0", 1, "a let", "$0"),
        ("i < j < 3", 7, "parentheses", "'<'"),
        ("300:uint8", 1, "range of uint8", "300"),
        ("i:int3", 3, "a dtype", "'int3'"),
        ("i ? 3", 3, "a token", "'?'"),
        ('"\\q"', 1, "JSON", '"\\q"'),
        ("select(i, i, i)", 1, "a bool", "int64"),
    ],
)
def test_bad_expressions_are_refused_where_they_go_wrong(text: str, column: int, expected: str, found: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_expr(text, None, NAMES)
    assert (caught.value.line, caught.value.column) == (1, column)
    assert expected in caught.value.expected
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("change", "line", "expected"),
    [
        (("func main(", "func main["), 8, "'('"),
        (("%1 = w[", "%1 = ww["), 11, "a value that is defined above"),
        (("%1 = w[", "%2 = w["), 11, "read 1"),
        (("reduce sum float32", "reduce sum float33"), 12, "a dtype"),
        (("reduce sum float32", "reduce total float32"), 12, "a standard combiner"),
        (("reduce sum float32", "reduce and float32"), 12, "a dtype that and is defined on"),
        (("else 0.0", "else h"), 10, "a literal"),
        (("tensor act", "tensr act"), 16, "an operator or 'return'"),
        (("write z: float16", 'write "/conv/y": float16'), 20, "not yet defined"),
        (("$0 = ", "$1 = "), 18, "let 0"),
        (("return (picked", "return (pickd"), 62, "a value that is defined above"),
        (("in [1, 64]", "in [1]"), 4, "','"),
        (("module main", "module mian"), 67, "a function 'mian'"),
        (("int64[4] = [0, 0, 0, 0]", "int64[4] = [0, 0, 0]"), 7, "4 elements"),
        (("int64[4] = [0, 0, 0, 0]", "int64[4] = [0, 0, 0, i]"), 7, "in scope"),
        (("float16[4, 3, 3, 3] =", "float16[4, N, 3, 3] ="), 5, "shape in integers"),
        (("float16[4, 3, 3, 3] =", "float16[4, 3, 3, 2] ="), 5, "contents of 'w'"),
    ],
)
def test_bad_modules_are_refused_where_they_go_wrong(change: tuple[str, str], line: int, expected: str) -> None:
    module = samples.module()
    text = print_module(module)
    assert change[0] in text
    with pytest.raises(ParseError) as caught:
        parse_module(text.replace(*change, 1), module.constants)
    assert expected in caught.value.expected, str(caught.value)
    assert caught.value.line == line, str(caught.value)


def test_contents_of_large_constants_must_be_given() -> None:
    module = samples.module()
    with pytest.raises(ParseError, match="contents of 'w'"):
        parse_module(print_module(module))


def test_onnx_nodes_are_printed_only() -> None:
    x, y = value("x", "float32", [2]), value("y", "float32", [2])
    node = OnnxNode("n", "Relu", "", 14, (x, None), (y,), {"alpha": 0.5}, Location("n", "Relu"))
    assert print_op(node) == "onnx n = Relu(x, none) {alpha = 0.5} opset 14 -> (y: float32[2])  # Relu n"
    module = samples.module()
    text = print_module(module.with_main(Region((x,), (node,), (y,))))
    with pytest.raises(ParseError, match="printed, not read"):
        parse_module(text, module.constants)


def test_names_are_escaped() -> None:
    hostile = '*/ [red]"<script>../\n\x1b[2J'
    text = print_op(samples.elementwise(hostile, value(hostile, "int8", [2]), value("é", "int8", [2])))
    assert "\x1b" not in text
    assert text.isascii()
    assert json.dumps(hostile) in text


def test_deep_sharing_does_not_blow_up() -> None:
    body: Expr = Load(0, "float32")
    for _ in range(60):
        body = apply("tanh", body * body + body)
    x, y = value("x", "float32", [2]), value("y", "float32", [2])
    module = Module({"main": samples.Function("main", Region((x,), (samples.elementwise("deep", x, y, body),), (y,)))})
    text = print_module(module)
    assert len(text) < 10_000
    assert print_module(parse_module(text)) == text  # comparing the trees would take 2^60 steps


@pytest.mark.parametrize("dtype", dtypes.FLOATS)
def test_float_literals_are_short_and_exact(dtype: str) -> None:
    for number in (0.1, 1e-30 if dtype not in ("float16",) else 1e-4, 3.0, -0.0, 65504.0):
        literal = const(number, dtype)
        found = parse_expr(print_expr(literal, dtype), dtype)
        assert isinstance(found, Const)
        assert found == literal
    assert print_expr(const(0.1, dtype), dtype) == "0.1"


GOLDEN: dict[str, Callable[[], str]] = {
    "module.txt": lambda: print_module(samples.module()),
    "cover.txt": lambda: print_cover(samples.cover()),
    "choice.txt": lambda: print_choice(samples.choice()) + "\n",
    "program.launches.txt": lambda: print_program(samples.program("launches")),
    "program.phases.txt": lambda: print_program(samples.program("phases")),
    "program.events.txt": lambda: print_program(samples.program("events")),
    "program.near.txt": lambda: print_program(samples.near_program()),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_printed_forms_are_as_agreed(name: str, golden: Callable[[str, str], None]) -> None:
    golden(name, GOLDEN[name]())
