"""`unroll_loops` (bitwise): loops of a known number of trips written out."""

from __future__ import annotations

from tilewright.ir.ops import Loop, Op, Region, Value
from tilewright_grinder.editor import Editor, Replacing, count, known_trips
from tilewright_grinder.rows import stacked


def unroll_loops(region: Region, editor: Editor) -> Region:
    """The region without the loops whose trips come to at most `unroll` operators."""
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        trips = known_trips(op) if isinstance(op, Loop) else None
        if not isinstance(op, Loop) or trips is None:
            made.keep(op)
            continue
        size = trips * count(op.body)
        what = f"{trips} trips of {count(op.body)} operators"
        if size > editor.options.unroll:
            editor.note(op.name, "loop", f"{what}; `unroll` allows {editor.options.unroll}")
            made.keep(op)
            continue
        editor.note(op.name, "written out", what)
        ops, outputs = written_out(op, range(trips), op.carried, editor)
        made.replace(old, ops, outputs)
    return made.region(region)


def written_out(
    op: Loop, numbers: range, carried: tuple[Value, ...], editor: Editor
) -> tuple[list[Op], list[Value]]:
    """Trips of an endless body one after the other, and the outputs of the loop."""
    ops, states, rows = trips(op, [editor.number(n) for n in numbers], carried, editor)
    with editor.building(op.name, op.loc) as stacks:
        outputs = [
            stacked(column, output, editor)
            for column, output in zip(rows, op.outputs[len(carried) :], strict=True)
        ]
    return [*ops, *stacks], [*states, *outputs]


def trips(
    op: Loop, numbers: list[Value], carried: tuple[Value, ...], editor: Editor
) -> tuple[list[Op], tuple[Value, ...], list[list[Value]]]:
    """Operators of the trips with these numbers, the states after the last one, and for each row its values."""
    ops: list[Op] = []
    rows: list[list[Value]] = [[] for _ in op.outputs[len(carried) :]]
    states = carried
    for number in numbers:
        made, results = editor.copy(op.body, [number, editor.true, *states])
        ops += made
        states = tuple(results[1 : 1 + len(carried)])
        for column, row in zip(rows, results[1 + len(carried) :], strict=True):
            column.append(row)
    return ops, states, rows
