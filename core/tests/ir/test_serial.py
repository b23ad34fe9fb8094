"""JSON loads back equal; unknown formats, versions, fields and values are refused with their place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from core.tests.ir import samples
from core.tests.ir.strategies import any_expr, modules
from tilewright.ir.choice import TileChoice
from tilewright.ir.expr import Apply, Expr, Load
from tilewright.ir.group import Cover, Group
from tilewright.ir.module import Constant, Module
from tilewright.ir.program import Program
from tilewright.ir.serial import SerialError, dump, dump_all, dump_expr, load, load_all, load_expr
from tilewright.planning.requests import Decision


@given(any_expr)
def test_expressions_load_back(expr: Expr) -> None:
    assert load_expr(json.loads(json.dumps(dump_expr(expr), allow_nan=False))) == expr


@given(modules())
def test_groups_load_back(module: Module) -> None:
    ops = module.main.body.ops
    group = Group("g", ops, ops[-1].outputs, (("v0", "shared"),), ("pack",))  # type: ignore[arg-type]
    assert load(dump(group), Group) == group


@pytest.mark.parametrize("kind", ["launches", "phases", "events"])
def test_programs_load_back(kind: str) -> None:
    program = samples.program(kind)
    assert load(dump(program), Program) == program


def test_a_program_that_keeps_weights_loads_back() -> None:
    program = samples.near_program()
    contents = {x.digest: x for x in program.constants.values()}
    assert load(dump(program), Program, contents) == program


def test_covers_and_choices_load_back() -> None:
    assert load(dump(samples.cover()), Cover) == samples.cover()
    assert load(dump(samples.choice()), TileChoice) == samples.choice()
    several = [samples.choice(1), samples.choice(2)]
    assert load_all(dump_all(several, TileChoice), TileChoice) == tuple(several)


def test_decisions_load_back() -> None:
    made = Decision("propose", "g0", {"a": [1, (2, 3.5)], "b": True}, ("x", None), (1.0, float("inf")), "because")
    assert load(dump(made), Decision) == made
    odd = load(dump(Decision("s", "g", float("nan"))), Decision)
    assert odd.chosen != odd.chosen


def test_shared_expressions_are_written_once() -> None:
    expr: Expr = Load(0, "float32")
    for _ in range(60):
        expr = Apply("add", (expr, expr), "float32")
    data = dump_expr(expr)
    assert len(json.dumps(data)) < 10_000
    assert dump_expr(load_expr(data)) == data  # comparing the trees would take 2^60 steps


def test_documents_hold_no_weights() -> None:
    module = samples.module()
    group = samples.cover().items[0]
    assert isinstance(group, Group)
    program = samples.program()
    holding = Program(program.inputs, program.outputs, program.kernels, program.body, program.storage, module.constants)
    text = dump(holding)
    assert module.constants["w"].digest in text
    contents = {c.digest: c for c in module.constants.values()}
    assert load(text, Program, contents) == holding
    with pytest.raises(SerialError, match="were not given"):
        load(text, Program)
    wrong = {digest: Constant(c.data.reshape(-1)) for digest, c in contents.items()}
    with pytest.raises(SerialError, match="float16"):
        load(text, Program, wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"version": 1', '"version": 2'), "version 2; this release reads version 1"),
        (('"format": "Group"', '"format": "Grup"'), "format 'Grup'"),
        (('"data": {', '"more": 1, "data": {'), "'more'"),
        (('"name": "g0"', '"nam": "g0"'), "unknown fields ['nam']"),
        (('"name": "g0"', '"name": 3'), "str is needed, not 3 @ data.name"),
        (('"is": "TensorOp"', '"is": "os.system"'), "data.ops[0]"),
        (('"op": "add"', '"op": "frob"'), "'frob'"),
        (('"kind": "reduce"', '"kind": "serial"'), "serial"),
        (('"register"', '"L3"'), "L3 not in literal"),
        (('"data": {', '"data": {,'), "not JSON"),
    ],
)
def test_bad_documents_are_refused(change: tuple[str, str], message: str) -> None:
    text = dump(samples.cover().items[0])
    assert change[0] in text
    with pytest.raises(SerialError) as caught:
        load(text.replace(*change, 1), Group)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"op": "add", "dtype": "int64", "args": [1]},
        {"op": "add", "dtype": "int63", "args": [1, 2]},
        {"op": "add", "dtype": "int64", "args": [1, 2], "loc": ""},
        {"const": 300, "dtype": "uint8"},
        {"const": True, "dtype": "uint8"},
        {"const": "one", "dtype": "float32"},
        {"load": -1, "dtype": "int64"},
        {"var": 3, "dtype": "int64"},
        {"ref": 0},
        1 << 63,
        1.5,
    ],
)
def test_bad_expressions_are_refused(data: Any) -> None:
    with pytest.raises(SerialError):
        load_expr(data)


def test_unknown_objects_are_refused_when_written() -> None:
    with pytest.raises(SerialError, match="set"):
        dump(Decision("s", "g", {1, 2}))
