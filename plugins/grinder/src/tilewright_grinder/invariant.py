"""`move_invariants` (bitwise): what is the same in every trip of a loop is computed once, before it.

Only what is worth a place in memory is moved (reductions, functions, control flow), with what it needs; cheap
arithmetic stays with its readers. Where there may be no trip at all, only operators are moved that cannot fail and
cost less than a branch.
"""

from __future__ import annotations

import attrs

from tilewright.ir.expr import Const
from tilewright.ir.ops import Loop, Op, Region, ScanOp, TensorOp
from tilewright_grinder.editor import Editor, Replacing
from tilewright_grinder.predicate import branch_seconds
from tilewright_grinder.speculation import cannot_fail, is_costly, seconds


def move_invariants(region: Region, editor: Editor) -> Region:
    """The region with the invariants of its loops before them."""
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        if isinstance(op, Loop):
            moved = _invariants(op, editor)
            if moved:
                names = {x.name for x in moved}
                made.ops += moved
                op = attrs.evolve(
                    op, body=attrs.evolve(op.body, ops=tuple(x for x in op.body.ops if x.name not in names))
                )
                why = "the same in every trip" + ("" if _runs(op) else ", and cheap enough where there is none")
                editor.note(op.name, f"{', '.join(sorted(names))} moved before it", why)
        made.keep(op)
    return made.region(region)


def _runs(op: Loop) -> bool:
    """Whether the loop makes at least one trip."""
    return op.condition is None and op.trip is None and (
        op.count is None or (isinstance(op.count, Const) and int(op.count.value) > 0)
    )


def _invariants(op: Loop, editor: Editor) -> list[Op]:
    """What is moved, in order."""
    varying = {x.name for x in op.body.params}
    same: list[Op] = []
    runs = _runs(op)
    for inner in op.body.ops:
        if any(x is not None and x.name in varying for x in inner.inputs) or not (runs or _may_be_tried(inner, editor)):
            varying.update(x.name for x in inner.outputs if x is not None)
        else:
            same.append(inner)
    needed: set[str] = set()
    moved: list[Op] = []
    for inner in reversed(same):
        makes = {x.name for x in inner.outputs if x is not None}
        if makes & needed or not isinstance(inner, TensorOp) or is_costly(inner):
            needed.update(x.name for x in inner.inputs if x is not None)
            moved.insert(0, inner)
    return moved


def _may_be_tried(op: Op, editor: Editor) -> bool:
    symbols = editor.builder.symbols
    if not isinstance(op, TensorOp | ScanOp) or not cannot_fail(op, editor.ranges, symbols):
        return False
    return seconds(op, editor.device, symbols) <= branch_seconds(editor)
