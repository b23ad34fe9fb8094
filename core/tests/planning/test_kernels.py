"""The kernel table: names of packed constants."""

from __future__ import annotations

import attrs

from tilewright.ir.choice import Packing
from tilewright.ir.expr import Expr, Var, const
from tilewright.ir.keys import packing_key
from tilewright.ir.ops import Access, Axis, value

W = value("w", "float32", [8, 8])
AXES = (Axis("i", const(8), "spatial"), Axis("j", const(8), "reduce"))
PACKING = Packing(0, (("t", 4), ("k", 8), ("l", 2)), (("i", Var("t") * 2 + Var("l")), ("j", Var("k"))))


def access(i: Expr, j: Expr) -> Access:
    return Access(W, (i, j))


def shared(depth: int) -> Expr:
    """An expression of `depth` nodes that would be 2^depth when written out."""
    found: Expr = Var("i")
    for _ in range(depth):
        found = found + found
    return found


def test_deeply_shared_indices_are_keyed_in_no_time() -> None:
    deep = access(shared(60) % 8, Var("j"))
    packing = attrs.evolve(PACKING, axes=(("i", shared(60)), ("j", Var("k"))))
    assert packing_key(deep, AXES, packing) == packing_key(deep, AXES, packing)
    assert packing_key(deep, AXES, packing) != packing_key(access(shared(59) % 8, Var("j")), AXES, packing)


def test_the_key_tells_layouts_apart() -> None:
    plain = access(Var("i"), Var("j"))
    keys = {
        packing_key(plain, AXES, PACKING),
        packing_key(access(Var("j"), Var("i")), AXES, PACKING),
        packing_key(plain, AXES, attrs.evolve(PACKING, dims=(("t", 2), ("k", 8), ("l", 4)))),
        packing_key(plain, AXES, attrs.evolve(PACKING, axes=(("i", Var("l") * 4 + Var("t")), ("j", Var("k"))))),
        packing_key(plain, (attrs.evolve(AXES[0], extent=const(7)), AXES[1]), PACKING),
    }
    assert len(keys) == 5


def test_the_key_does_not_depend_on_the_names_of_axes() -> None:
    renamed = (Axis("p", const(8), "spatial"), Axis("q", const(8), "reduce"))
    packing = attrs.evolve(PACKING, axes=(("p", PACKING.axes[0][1]), ("q", PACKING.axes[1][1])))
    assert packing_key(access(Var("i"), Var("j")), AXES, PACKING) == packing_key(
        access(Var("p"), Var("q")), renamed, packing
    )
