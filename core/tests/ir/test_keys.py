"""Structural keys ignore names, locations and weights, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given

from core.tests.ir import samples
from core.tests.ir.strategies import modules
from tilewright.ir.expr import Apply, Expr, Load, Var, apply, const, map_expr
from tilewright.ir.group import Group
from tilewright.ir.keys import canonical, identity, structural_key
from tilewright.ir.module import Constant, Module
from tilewright.ir.ops import Access, Axis, Location, Region, TensorOp, Value, Write, combiner


def rename(op: TensorOp, values: Callable[[str], str], axes: Callable[[str], str]) -> TensorOp:
    """The operator with other names for its values and axes, and itself."""
    own = {a.name for a in op.axes}

    def expr(e: Expr) -> Expr:
        return map_expr(e, lambda n: Var(axes(n.name)) if isinstance(n, Var) and n.name in own else None)

    def renamed(v: Value) -> Value:
        return attrs.evolve(v, name=values(v.name))

    def guard(r: Access) -> Expr | None:
        return None if r.guard is None else expr(r.guard)

    reads = [
        attrs.evolve(r, value=renamed(r.value), index=tuple(map(expr, r.index)), guard=guard(r)) for r in op.reads
    ]
    writes = [attrs.evolve(w, value=renamed(w.value), index=tuple(map(expr, w.index))) for w in op.writes]
    return attrs.evolve(
        op,
        name=values(op.name),
        axes=tuple(attrs.evolve(a, name=axes(a.name)) for a in op.axes),
        reads=tuple(reads),
        body=tuple(map(expr, op.body)),
        writes=tuple(writes),
        inplace=values(op.inplace) if op.inplace else "",
        loc=Location("elsewhere", "Else"),
    )


def layer(prefix: str = "", axis: str = "") -> Group:
    """The sample's convolution and activation, with prefixed names."""
    group = samples.cover().items[0]
    assert isinstance(group, Group)
    ops = tuple(rename(op, lambda n: prefix + n, lambda n: axis + n) for op in group.ops if isinstance(op, TensorOp))
    levels = tuple((prefix + n, level) for n, level in group.levels)
    return Group(prefix + group.name, ops, ops[-1].outputs, levels)


def test_equal_layers_match_and_are_interchangeable_by_position() -> None:
    first, second = layer(), layer("l7/", "ax_")
    a, b = canonical(first, {"w"}), canonical(second, {"l7/w"})
    assert a.key == b.key
    assert [x.name for x in b.inputs] == ["l7/" + x.name for x in a.inputs]
    assert [x.name for x in b.outputs] == ["l7/" + x.name for x in a.outputs]
    assert identity(first) != identity(second)


def conv(group: Group) -> TensorOp:
    assert isinstance(group.ops[0], TensorOp)
    return group.ops[0]


def with_conv(group: Group, **changes: object) -> Group:
    return attrs.evolve(group, ops=(attrs.evolve(conv(group), **changes), *group.ops[1:]))


def with_read(group: Group, **changes: object) -> Group:
    read, *rest = conv(group).reads
    return with_conv(group, reads=(attrs.evolve(read, **changes), *rest))


def with_act(group: Group, **changes: object) -> Group:
    return attrs.evolve(group, ops=(group.ops[0], attrs.evolve(group.ops[1], **changes)))


first_read: Callable[[Group], Access] = lambda g: conv(g).reads[0]  # noqa: E731
CHANGES: dict[str, Callable[[Group], Group]] = {
    "extent": lambda g: with_conv(g, axes=(Axis("n", const(2)), *conv(g).axes[1:])),
    "axis kind": lambda g: with_conv(g, axes=(Axis("n", const(1), "reduce"), *conv(g).axes[1:])),
    "axis order": lambda g: with_conv(g, axes=(conv(g).axes[1], conv(g).axes[0], *conv(g).axes[2:])),
    "index": lambda g: with_read(g, index=(*first_read(g).index[:3], first_read(g).index[3] + 1)),
    "no guard": lambda g: with_read(g, guard=None),
    "guard": lambda g: with_read(g, guard=Apply("not", (first_read(g).guard,), "bool")),  # type: ignore[arg-type]
    "fill": lambda g: with_read(g, fill=const(1.0, "float16")),
    "fill sign": lambda g: with_read(g, fill=const(-0.0, "float16")),
    "combiner": lambda g: with_conv(g, combiner=combiner("max", "float32")),
    "accumulator": lambda g: with_conv(g, combiner=combiner("sum", "float64")),
    "associativity": lambda g: with_conv(g, combiner=attrs.evolve(conv(g).combiner, associative=False)),  # type: ignore[type-var]
    "body": lambda g: with_conv(g, body=(conv(g).body[0] + 1.0,)),
    "operands swapped": lambda g: with_conv(g, reads=tuple(reversed(conv(g).reads))),
    "value dtype": lambda g: with_read(g, value=attrs.evolve(first_read(g).value, dtype="bfloat16")),
    "value shape": lambda g: with_read(g, value=attrs.evolve(first_read(g).value, shape=(const(2),))),
    "level": lambda g: attrs.evolve(g, levels=(("/conv/y", "shared"),)),
    "no level": lambda g: attrs.evolve(g, levels=()),
    "outputs": lambda g: attrs.evolve(g, outputs=(*conv(g).outputs, *g.outputs)),
    "in place": lambda g: with_act(g, inplace="/conv/y"),
    "ordered write": lambda g: with_act(g, writes=(attrs.evolve(g.ops[1].writes[0], ordered=True),)),  # type: ignore[union-attr]
    "one operator less": lambda g: attrs.evolve(g, ops=g.ops[:1], outputs=conv(g).outputs, levels=()),
    "stream": lambda g: attrs.evolve(g, stream="k"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_structural_change_changes_the_key(change: str) -> None:
    group = layer()
    changed = CHANGES[change](group)
    assert changed != group
    assert structural_key(changed, {"w"}) != structural_key(group, {"w"})


def test_all_changes_differ_from_each_other() -> None:
    keys = {name: structural_key(change(layer())) for name, change in CHANGES.items()}
    assert len(set(keys.values())) == len(keys)


def test_that_an_operand_is_a_constant_counts_but_which_one_does_not() -> None:
    group = layer()
    assert structural_key(group, {"w"}) != structural_key(group)
    assert structural_key(group, {"w"}) != structural_key(group, {"x"})


def test_one_value_read_twice_is_not_two_values() -> None:
    x, y, z = (samples.value(n, "float32", [4]) for n in "xyz")
    i = samples.axes("i", 4)
    index = (i[0].var,)
    add = Load(0, "float32") + Load(1, "float32")
    twice = TensorOp("t", i, (Access(x, index), Access(x, index)), (add,), (Write(z, index),))
    two = TensorOp("t", i, (Access(x, index), Access(y, index)), (add,), (Write(z, index),))
    assert structural_key(twice) != structural_key(two)


def test_symbols_keep_their_names() -> None:
    def over(extent: Expr) -> TensorOp:
        x, y = Value("x", "float32", (extent,)), Value("y", "float32", (extent,))
        return samples.elementwise("e", x, y)

    assert structural_key(over(Var("N"))) != structural_key(over(Var("M")))


@given(modules())
def test_keys_of_random_functions_survive_renaming(module: Module) -> None:
    body = module.main.body
    renamed = Region(
        tuple(attrs.evolve(v, name="p " + v.name) for v in body.params),
        tuple(rename(op, lambda n: "p " + n, lambda n: n + "_") for op in body.ops if isinstance(op, TensorOp)),
        tuple(attrs.evolve(v, name="p " + v.name) for v in body.results),
    )
    constants = {"p " + n: c for n, c in module.constants.items()}
    assert structural_key(renamed, constants) == structural_key(body, module.constants)
    assert structural_key(module.main, module.constants) == structural_key(body, module.constants)
    if body.ops:
        assert identity(renamed) != identity(body)


def test_identity_knows_weights_and_locations() -> None:
    module = samples.module()
    changed = Module(
        module.functions, {**module.constants, "w": Constant(module.constants["w"].data + 1)}, module.symbols
    )
    plain = attrs.evolve(module, input_names=(), output_names=())
    assert identity(changed) != identity(plain)
    op = module.main.body.ops[0]
    assert identity(attrs.evolve(op, loc=Location())) != identity(op)
    assert identity(op) == identity(samples.module().main.body.ops[0])


def test_keys_are_quick_even_for_shared_expressions() -> None:
    body: Expr = Load(0, "float32")
    for _ in range(60):
        body = apply("tanh", body * body + body)
    x, y = samples.value("x", "float32", [2]), samples.value("y", "float32", [2])
    groups = [layer(f"l{n}/") for n in range(200)]
    start = time.process_time()
    structural_key(samples.elementwise("deep", x, y, body))
    assert len({structural_key(g) for g in groups}) == 1
    assert time.process_time() - start < 1.0
