"""`predicate_branches` (bitwise): both sides of a cheap branch are computed, and the condition selects the results."""

from __future__ import annotations

from tilewright.ir.expr import Expr, select
from tilewright.ir.ops import If, Region, Value
from tilewright_grinder.editor import Editor, Replacing
from tilewright_grinder.speculation import bytes_of, cannot_fail, seconds

_LAUNCHES = {"cpu": 0.2}
_LAUNCHES_OF_OTHERS = 10.0
"""What a branch on data costs, in launches: on a GPU the host waits for the condition and fills an empty queue."""


def branch_seconds(editor: Editor) -> float:
    """What a branch costs beside what it runs."""
    if editor.options.branch is not None:
        return editor.options.branch
    return _LAUNCHES.get(editor.device.kind, _LAUNCHES_OF_OTHERS) * editor.device.launch_seconds


def predicate_branches(region: Region, editor: Editor) -> Region:
    """The region without the branches whose sides cannot fail and cost less together than the branch saves."""
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        if not isinstance(op, If):
            made.keep(op)
            continue
        costs = [_seconds(side, editor) for side in (op.then, op.orelse)]
        if None in costs:
            editor.note(op.name, "branch", "a side may fail, or holds control flow")
            made.keep(op)
            continue
        then, orelse = (x or 0.0 for x in costs)
        taken = editor.options.taken
        apart = branch_seconds(editor) + taken * then + (1 - taken) * orelse
        together = then + orelse + _selecting(op, editor)
        why = f"both sides {together * 1e6:.2f} µs, the branch {apart * 1e6:.2f} µs"
        if together > apart:
            editor.note(op.name, "branch", why)
            made.keep(op)
            continue
        editor.note(op.name, "predicated", why)
        with editor.building(f"{op.name}_selected", op.loc) as ops:
            pairs = zip(op.then.results, op.orelse.results, strict=True)
            outputs = [x if x == y else _selected(op.condition, x, y, editor) for x, y in pairs]
        made.replace(old, [*op.then.ops, *op.orelse.ops, *ops], outputs)
    return made.region(region)


def _seconds(side: Region, editor: Editor) -> float | None:
    """Predicted seconds of a side; None when it must not run unasked."""
    symbols = editor.builder.symbols
    if not all(cannot_fail(x, editor.ranges, symbols) for x in side.ops):
        return None
    return sum(seconds(x, editor.device, symbols) for x in side.ops)


def _selecting(op: If, editor: Editor) -> float:
    """Seconds that a selection takes longer than the copy of a branch's result: it reads both."""
    pairs = zip(op.then.results, op.orelse.results, strict=True)
    read = sum(bytes_of(x, editor.builder.symbols) for x, y in pairs if x != y)
    return read / editor.device.levels[0].bandwidth


def _selected(condition: Value, then: Value, orelse: Value, editor: Editor) -> Value:
    test, x, y = map(editor.tensor, (condition, then, orelse))

    def body(*i: Expr) -> Expr:
        return select(test[()], x.at(i), y.at(i))

    return editor.builder.compute(then.dtype, then.extents, body).value
