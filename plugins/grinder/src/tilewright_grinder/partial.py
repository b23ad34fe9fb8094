"""`unroll_partly` (bitwise): `factor` trips of a loop become one.

- A known number of trips: the rest is written out after the loop.
- A number that is known when the loop starts: a second loop makes the rest.
- A condition that may end the loop: each further trip stands in a branch on the condition and the limit. Where it is
  cheap, `predicate_branches` then makes a selection of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.expr import Const, Expr, const, maximum
from tilewright.ir.ops import If, Loop, Op, Region, Value
from tilewright_grinder.editor import Editor, Replacing, is_certain
from tilewright_grinder.rows import joined, stacked
from tilewright_grinder.unroll import trips


def unroll_partly(region: Region, editor: Editor) -> Region:
    """The region with loops that make `factor` trips at a time."""
    factor = editor.options.factor
    if factor == 1:
        return region
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        if not isinstance(op, Loop):
            made.keep(op)
            continue
        found = _unrolled(op, factor, editor)
        if found is None:
            made.keep(op)
            continue
        editor.note(op.name, f"{factor} trips at a time", "`factor` asks for it")
        made.replace(old, *found)
    return made.region(region)


def _unrolled(op: Loop, factor: int, editor: Editor) -> tuple[list[Op], list[Value]] | None:
    rows = len(op.outputs) - len(op.carried)
    if is_certain(op) and isinstance(op.count, Const):
        return _counted(op, factor, editor)
    if rows or (op.count is not None and not isinstance(op.count, Const)):
        editor.note(op.name, "one trip at a time", "it collects rows of which data decide the number")
        return None
    return _limited(op, factor, editor) if is_certain(op) else _ending(op, factor, editor)


def _counted(op: Loop, factor: int, editor: Editor) -> tuple[list[Op], list[Value]] | None:
    assert isinstance(op.count, Const)
    count, states = int(op.count.value), len(op.carried)
    if count < 2 * factor:
        return None
    whole = count // factor
    loop = _times(op, factor, const(whole), None, editor)
    numbers = [editor.number(n) for n in range(whole * factor, count)]
    rest, ends, left = trips(op, numbers, loop.outputs[:states], editor)
    with editor.building(op.name, op.loc) as ops:
        rows = [
            joined(first, factor, column, like, editor)
            for first, column, like in zip(loop.outputs[states:], left, op.outputs[states:], strict=True)
        ]
    return [loop, *rest, *ops], [*ends, *rows]


def _limited(op: Loop, factor: int, editor: Editor) -> tuple[list[Op], list[Value]] | None:
    """A loop with a trip count of run time, as two."""
    if op.trip is None:
        return None
    limit = editor.tensor(op.trip)
    with editor.building(op.name, op.loc) as ops:
        whole = editor.builder.compute("int64", (), lambda: maximum(limit[()], 0) // factor, "whole")
        rest = editor.builder.compute("int64", (), lambda: maximum(limit[()], 0) - whole[()] * factor, "rest")
    first = _times(op, factor, None, whole.value, editor)
    params = tuple(map(editor.fresh, op.body.params))
    with editor.building(op.name, op.loc) as numbered:
        before, after = whole, editor.tensor(params[0])
        number = editor.builder.compute("int64", (), lambda: before[()] * factor + after[()], "number").value
    inner, results = editor.copy(op.body, [number, *params[1:]])
    body = Region(params, (*numbered, *inner), tuple(results))
    outputs = tuple(map(editor.fresh, op.outputs))
    second = Loop(outputs[0].name, rest.value, None, first.outputs, outputs, body, None, op.loc)
    return [*ops, first, second], list(outputs)


def _times(op: Loop, factor: int, count: Expr | None, trip: Value | None, editor: Editor) -> Loop:
    """The loop whose trips are `factor` trips; a row is that many rows."""
    params = tuple(map(editor.fresh, op.body.params))
    states = len(op.carried)
    ops, numbers = _numbers(params[0], factor, op, editor)
    inner, ends, rows = trips(op, numbers, params[2:], editor)
    with editor.building(op.name, op.loc) as stacks:
        groups = [stacked(x, like, editor) for x, like in zip(rows, op.outputs[states:], strict=True)]
    body = Region(params, (*ops, *inner, *stacks), (params[1], *ends, *groups))
    outputs = [editor.fresh(x) for x in op.outputs[:states]]
    for group, old in zip(groups, op.outputs[states:], strict=True):
        assert count is not None
        outputs.append(editor.fresh(attrs.evolve(old, shape=(count, *group.shape))))
    loop = Loop(outputs[0].name, trip, None, op.carried, tuple(outputs), body, count, op.loc)
    editor.know_trips(loop)
    return loop


def _numbers(number: Value, factor: int, op: Loop, editor: Editor) -> tuple[list[Op], list[Value]]:
    """The numbers of the trips that one trip makes."""
    source = editor.tensor(number)
    with editor.building(op.name, op.loc) as ops:
        found = [
            editor.builder.compute("int64", (), lambda n=n: source[()] * factor + n, "number").value
            for n in range(factor)
        ]
    return ops, found


def _ending(op: Loop, factor: int, editor: Editor) -> tuple[list[Op], list[Value]]:
    """A loop that may end after any trip."""
    before: list[Op] = []
    trip, count = op.trip, op.count
    if op.trip is not None:
        limit = editor.tensor(op.trip)
        with editor.building(op.name, op.loc) as before:
            up = factor - 1
            trip = editor.builder.compute("int64", (), lambda: (maximum(limit[()], 0) + up) // factor, "trips").value
    elif isinstance(op.count, Const):
        count = const(-(-int(op.count.value) // factor))
    params = tuple(map(editor.fresh, op.body.params))
    ops, numbers = _numbers(params[0], factor, op, editor)
    inner, results = _one_of(op, numbers, params[2:], editor)
    body = Region(params, (*ops, *inner), tuple(results))
    outputs = tuple(map(editor.fresh, op.outputs))
    loop = Loop(outputs[0].name, trip, op.condition, op.carried, outputs, body, count, op.loc)
    return [*before, loop], list(outputs)


def _one_of(
    op: Loop, numbers: Sequence[Value], states: Sequence[Value], editor: Editor
) -> tuple[list[Op], list[Value]]:
    """The trip of the first number and, in a branch, the others; the condition and the states at the end."""
    ops, results = editor.copy(op.body, [numbers[0], editor.true, *states])
    if len(numbers) == 1:
        return ops, results
    goes, next_number = editor.tensor(results[0]), editor.tensor(numbers[1])
    limit = None if op.trip is None else editor.tensor(op.trip)

    def test() -> Expr:
        on = goes[()]
        if limit is not None:
            return on & (next_number[()] < limit[()])
        return on & (next_number[()] < op.count) if op.count is not None else on

    with editor.building(op.name, op.loc) as tests:
        condition = editor.builder.compute("bool", (), test, "goes").value
    inner, ends = _one_of(op, numbers[1:], results[1:], editor)
    outputs = tuple(map(editor.fresh, results))
    then, orelse = Region((), tuple(inner), tuple(ends)), Region((), (), tuple(results))
    branch = If(outputs[0].name, condition, then, orelse, outputs, op.loc)
    return [*ops, *tests, branch], list(outputs)
