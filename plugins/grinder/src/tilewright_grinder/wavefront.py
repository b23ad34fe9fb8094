"""`skew_recurrences` (bitwise): recurrences of which each reads the rows of the one before become one loop.

Layer `j` works on step `t - j` in trip `t`, so the layers of a trip do not wait for each other, and
`steps + layers - 1` trips do what `steps · layers` did one after the other. In the first and last trips some layers
have no step: they compute on what is there, and a selection keeps their states.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.ops import Loop, Op, Region
from tilewright.rewrites.rename import region_with_values
from tilewright_grinder.editor import Editor, known_trips
from tilewright_grinder.sinking import Sinking
from tilewright_grinder.skewing import Layer, Skewing
from tilewright_grinder.speculation import cannot_fail, is_kernel, seconds


def skew_recurrences(region: Region, editor: Editor) -> Region:
    """The region with chains of recurrences as one loop each, where that is predicted to save time."""
    if editor.options.wavefront == "never":
        return region
    start = 0
    while True:
        layers = _chain(region, start, editor)
        if not layers:
            return region
        start = region.ops.index(layers[0].loop) + 1
        if len(layers) > 1 and _pays(layers, editor):
            region = _fused(region, layers, editor)


def _chain(region: Region, start: int, editor: Editor) -> list[Layer]:
    """The longest chain that begins with the first recurrence at or behind a position; empty when there is none."""
    layers: list[Layer] = []
    dependent: set[str] = set()
    for op in region.ops[start:]:
        if isinstance(op, Loop) and _is_recurrence(op, editor):
            if not layers:
                layers.append(Layer(op, 0, ()))
                dependent.update(x.name for x in op.outputs)
                continue
            above = _above(region, layers, op, dependent, editor)
            if above is not None:
                layers.append(above)
        if layers and any(x is not None and x.name in dependent for x in op.inputs):
            dependent.update(x.name for x in op.outputs if x is not None)
    return layers


def _is_recurrence(op: Loop, editor: Editor) -> bool:
    """Whether a loop has steps enough and a body that may run once more than it should."""
    symbols = editor.builder.symbols
    trips = known_trips(op)
    return trips is not None and trips > 1 and all(cannot_fail(x, editor.ranges, symbols) for x in op.body.ops)


def _above(
    region: Region, layers: Sequence[Layer], op: Loop, dependent: set[str], editor: Editor
) -> Layer | None:
    """The loop as the layer above the last one of a chain, if it needs no more of the chain than that one's rows."""
    below = layers[-1].loop
    trips = known_trips(below)
    if trips is None or known_trips(op) != trips or any(x.name in dependent for x in op.carried):
        return None
    states = len(below.carried)
    rows = {
        output.name: (editor.fresh(result), result)
        for output, result in zip(below.outputs[states:], below.body.results[1 + states :], strict=True)
    }
    here = region.ops.index(op)
    makers = {x.name: maker for maker in region.ops[:here] for x in maker.outputs if x is not None}
    row_values = {name: read for name, (read, _) in rows.items()}
    sinking = Sinking(row_values, dependent, makers, op.body.params[0], editor)
    body = sinking.body(op.body)
    if body is None or not all(cannot_fail(x, editor.ranges, editor.builder.symbols) for x in sinking.ops):
        return None
    used = {x.name for inner in body.ops for x in inner.inputs if x is not None}
    read = tuple(pair for pair in rows.values() if pair[0].name in used)
    return Layer(attrs.evolve(op, body=body), len(sinking.ops), read) if read else None


def _pays(layers: Sequence[Layer], editor: Editor) -> bool:
    """Whether one loop is predicted to take less time, its layers side by side, than the loops one after the other."""
    steps = known_trips(layers[0].loop)
    assert steps is not None
    symbols, device = editor.builder.symbols, editor.device

    def work(ops: Sequence[Op]) -> tuple[float, int]:
        """Seconds of work, and launches that follow each other."""
        launches = sum(map(is_kernel, ops))
        return sum(seconds(x, device, symbols) for x in ops) - launches * device.launch_seconds, launches + 1

    own = [work(x.loop.body.ops[x.between :]) for x in layers]
    all_of = [work(x.loop.body.ops) for x in layers]
    wait = device.launch_seconds
    apart = steps * sum(x + n * wait for x, n in own)
    together = (steps + len(layers) - 1) * (sum(x for x, _ in all_of) + max(n for _, n in all_of) * wait)
    why = f"{len(layers)} layers of {steps} steps: {together * 1e6:.0f} µs side by side, {apart * 1e6:.0f} µs apart"
    pays = together < apart or editor.options.wavefront == "always"
    editor.note(layers[0].loop.name, "one wavefront" if pays else "loops one after the other", why)
    return pays


def _fused(region: Region, layers: Sequence[Layer], editor: Editor) -> Region:
    """The region with the chain as one loop, behind everything that does not depend on it."""
    names = {x.loop.name for x in layers}
    skewed = Skewing(layers, editor).loop()
    dependent = {x.name for layer in layers for x in layer.loop.outputs}
    last = max(n for n, x in enumerate(region.ops) if x.name in names)
    before: list[Op] = []
    after: list[Op] = []
    for n, op in enumerate(region.ops):
        if op.name in names:
            continue
        late = n > last or any(x is not None and x.name in dependent for x in op.inputs)
        if late:
            dependent.update(x.name for x in op.outputs if x is not None)
        (after if late else before).append(op)
    behind = region_with_values(Region((), tuple(after), region.results), lambda x: skewed.stands.get(x.name, x))
    return Region(region.params, (*before, *skewed.ops, *behind.ops), behind.results)
