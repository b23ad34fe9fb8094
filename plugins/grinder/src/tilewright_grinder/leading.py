"""`split_leading` (bitwise): operators at the start of a branch that need not wait for its condition stand before it.

An operator that both sides start with is moved whatever it costs, for one of the two would run. An operator of one side
is moved when it cannot fail and all its tensors are small (the paper's 128 elements).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import attrs

from tilewright.ir.bounds import bounds_of
from tilewright.ir.ops import If, Location, Op, Region, Routine, ScanOp, TensorOp, Value
from tilewright.rewrites.rename import region_with_values, with_values
from tilewright_grinder.editor import Editor, Replacing
from tilewright_grinder.speculation import cannot_fail


def split_leading(region: Region, editor: Editor) -> Region:
    """The region with common and small leading operators of its branches before them."""
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        if isinstance(op, If):
            op, moved = _split(op, editor)
            made.ops += moved
        made.keep(op)
    return made.region(region)


def _split(op: If, editor: Editor) -> tuple[If, list[Op]]:
    moved: list[Op] = []
    while True:
        pair = _common(op, editor)
        if pair is None:
            break
        one, other = pair
        stands = dict(zip((x.name for x in other.outputs if x), (x for x in one.outputs if x), strict=True))
        op = attrs.evolve(op, then=_without(op.then, one), orelse=_reading(_without(op.orelse, other), stands))
        moved.append(one)
    common = len(moved)
    sides: list[Region] = []
    for side in (op.then, op.orelse):
        small = _leading(side, lambda x: _is_small(x, editor))
        for x in small:
            side = _without(side, x)
        moved += small
        sides.append(side)
    op = attrs.evolve(op, then=sides[0], orelse=sides[1])
    if moved:
        what = f"{common} operators of both sides and {len(moved) - common} small ones moved before it"
        editor.note(op.name, what, "they need not wait for the condition")
    return op, moved


def _leading(side: Region, wanted: Callable[[Op], bool]) -> list[Op]:
    """The operators of a kind that need nothing of the side but each other."""
    inside = {x.name for op in side.ops for x in op.outputs if x is not None}
    found: list[Op] = []
    for op in side.ops:
        if wanted(op) and not any(x is not None and x.name in inside for x in op.inputs):
            found.append(op)
            inside -= {x.name for x in op.outputs if x is not None}
    return found


def _common(op: If, editor: Editor) -> tuple[Op, Op] | None:
    """The first operator that both sides start with."""

    def first(side: Region) -> list[Op]:
        made = {x.name for inner in side.ops for x in inner.outputs if x is not None}
        plain = [x for x in side.ops if isinstance(x, TensorOp | ScanOp | Routine)]
        return [x for x in plain if not any(y.name in made for y in x.inputs)]

    others = {_form(x, editor): x for x in first(op.orelse)}
    return next(((x, others[key]) for x in first(op.then) if (key := _form(x, editor)) in others), None)


def _form(op: Op, editor: Editor) -> Op:
    """The operator without what tells it from one that computes the same; equal constants count as one."""
    names = {x.name: f"@{n}" for n, x in enumerate(op.outputs) if x is not None}
    known = [x.name for x in op.inputs if x is not None and x.name in editor.constants]
    names |= {name: editor.constants[name].digest for name in known}
    bare = attrs.evolve(op, name="", loc=Location())
    return with_values(bare, lambda x: attrs.evolve(x, name=names.get(x.name, x.name)))


def _reading(side: Region, stands: Mapping[str, Value]) -> Region:
    return region_with_values(side, lambda x: stands.get(x.name, x))


def _without(side: Region, op: Op) -> Region:
    return attrs.evolve(side, ops=tuple(x for x in side.ops if x.name != op.name))


def _is_small(op: Op, editor: Editor) -> bool:
    symbols = editor.builder.symbols
    if not cannot_fail(op, editor.ranges, symbols):
        return False
    values = [x for x in (*op.inputs, *op.outputs) if x is not None]
    most = max(math.prod(bounds_of(n, symbols).high for n in x.shape) for x in values)
    return most <= editor.options.small
