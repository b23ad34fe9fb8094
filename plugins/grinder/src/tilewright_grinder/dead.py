"""`remove_dead` (bitwise): operators, states and results that nothing needs are gone.

`lift_constant_states` (bitwise): what a loop carries without changing it is read from outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from tilewright.ir.ops import If, Loop, Op, Region, Value
from tilewright.rewrites.live import live
from tilewright.rewrites.rename import region_with_values
from tilewright_grinder.editor import Editor, Replacing


def remove_dead(region: Region, editor: Editor) -> Region:
    """The region without operators, outputs of loops and branches, and carried states that its results do not need.

    A state is needed when its last value is, or when the condition, a needed row or a needed state of the next trip is
    computed from it. To be called for the body of a function: it goes inside by itself.
    """
    needed = {x.name for x in region.results}
    kept: list[Op] = []
    for old in reversed(region.ops):
        op = old
        if not any(x is not None and x.name in needed for x in op.outputs):
            continue
        if isinstance(op, Loop):
            op = _loop(op, needed, editor)
        elif isinstance(op, If):
            op = _branch(op, needed, editor)
        kept.append(op)
        needed.update(x.name for x in op.inputs if x is not None)
    return attrs.evolve(region, ops=tuple(reversed(kept)))


def _loop(op: Loop, needed: set[str], editor: Editor) -> Loop:
    states = len(op.carried)
    results = op.body.results[1:]
    keep = {n for n, x in enumerate(op.outputs) if x.name in needed}
    while True:
        body = live(attrs.evolve(op.body, results=(op.body.results[0], *(results[n] for n in sorted(keep)))))
        used = {x.name for x in body.results} | {x.name for inner in body.ops for x in inner.inputs if x is not None}
        more = {n for n in range(states) if op.body.params[2 + n].name in used} - keep
        if not more:
            break
        keep |= more
    gone = len(results) - len(keep)
    if gone:
        editor.note(op.name, f"{gone} states and rows removed", "nothing needs them")
    params = (*op.body.params[:2], *(op.body.params[2 + n] for n in range(states) if n in keep))
    return attrs.evolve(
        op,
        carried=tuple(x for n, x in enumerate(op.carried) if n in keep),
        outputs=tuple(x for n, x in enumerate(op.outputs) if n in keep),
        body=remove_dead(attrs.evolve(body, params=params), editor),
    )


def _branch(op: If, needed: set[str], editor: Editor) -> If:
    keep = [n for n, x in enumerate(op.outputs) if x.name in needed]
    if len(keep) < len(op.outputs):
        editor.note(op.name, f"{len(op.outputs) - len(keep)} results removed", "nothing needs them")

    def side(region: Region) -> Region:
        return remove_dead(attrs.evolve(region, results=_at(region.results, keep)), editor)

    return attrs.evolve(op, then=side(op.then), orelse=side(op.orelse), outputs=_at(op.outputs, keep))


def _at(values: tuple[Value, ...], places: Iterable[int]) -> tuple[Value, ...]:
    return tuple(values[n] for n in places)


def lift_constant_states(region: Region, editor: Editor) -> Region:
    """The region with loops that read a state which stays what it is from outside instead of carrying it."""
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        if not isinstance(op, Loop):
            made.keep(op)
            continue
        pairs = enumerate(zip(op.carried, op.body.params[2:], op.body.results[1:], strict=False))
        fixed = {n: start for n, (start, param, after) in pairs if after in (param, start)}
        if not fixed:
            made.keep(op)
            continue
        editor.note(op.name, f"{len(fixed)} states read from outside", "no trip changes them")
        inside = {op.body.params[2 + n].name: start for n, start in fixed.items()}
        left = [n for n in range(len(op.outputs)) if n not in fixed]
        body = region_with_values(
            attrs.evolve(
                op.body,
                params=(*op.body.params[:2], *(x for n, x in enumerate(op.body.params[2:]) if n not in fixed)),
                results=(op.body.results[0], *(op.body.results[1 + n] for n in left)),
            ),
            lambda x, inside=inside: inside.get(x.name, x),  # type: ignore[misc]
        )
        carried = tuple(x for n, x in enumerate(op.carried) if n not in fixed)
        outputs = tuple(op.outputs[n] for n in left)
        loop = [attrs.evolve(op, carried=carried, outputs=outputs, body=body)] if outputs else []
        made.replace(old, loop, [fixed.get(n, x) for n, x in enumerate(op.outputs)])
    return made.region(region)
