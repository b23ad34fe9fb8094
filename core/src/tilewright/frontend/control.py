"""`If`, `Loop` and `Scan` as operators with regions.

A region is imported once, with parameters of the types that it is first entered with. A branch on a constant needs no
region: it is imported in the place of the `If`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs
import numpy as np
import onnx

from tilewright.errors import InputError
from tilewright.frontend import fold
from tilewright.frontend.loops import Loops
from tilewright.frontend.regions import Regions
from tilewright.frontend.scans import Scans
from tilewright.frontend.scope import Scope
from tilewright.ir.ops import If, Region, Value
from tilewright.rewrites.live import live

if TYPE_CHECKING:
    from tilewright.frontend.graph import Importer

CONTROL = ("If", "Loop", "Scan")


def add_control(
    importer: Importer, node: onnx.NodeProto, inputs: Sequence[Value | None], scope: Scope, what: str
) -> None:
    """Imports an `If`, a `Loop` or a `Scan`; its outputs are bound in `scope`.

    Raises:
        InputError: the node does not fit its regions.
        UnsupportedError: the shape of something depends on how often a loop runs, or on which branch is taken.
    """
    match node.op_type:
        case "If":
            outputs = _Branches(importer, node, scope, what).branch(inputs)
        case "Loop":
            outputs = Loops(importer, node, scope, what).loop(inputs)
        case _:
            outputs = Scans(importer, node, scope, what).scan(inputs)
    for name, found in zip(node.output, outputs, strict=False):
        if name:
            scope.values[name] = found


@attrs.frozen
class _Branches(Regions):
    """An `If`."""

    def branch(self, inputs: Sequence[Value | None]) -> list[Value]:
        """The outputs of an `If`."""
        (condition,) = inputs
        assert condition is not None
        known = self.importer.data(condition)
        graphs = [fold.attribute(self.node, name) for name in ("then_branch", "else_branch")]
        if known is not None:
            return self.inline(graphs[0 if bool(np.asarray(known).reshape(())) else 1], [])
        condition = self.scalar(condition, "condition")
        then, orelse = (self.region((), partial(self.inline, graph, [])) for graph in graphs)
        wanted = [n for n, name in enumerate(self.node.output) if name]
        for region in (then, orelse):
            if len(region.results) < len(self.node.output):
                raise InputError(
                    f"A branch of {self.what} has {len(region.results)} outputs, the node {len(self.node.output)}.",
                    "Repair the model.",
                )
        for n in wanted:
            a, b = then.results[n], orelse.results[n]
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                shown = [f"{x.dtype}{list(x.static_shape())}" for x in (a, b)]
                raise self.importer.needed(
                    f"Output {self.node.output[n]!r} of {self.what} is {shown[0]} or {shown[1]}, by the condition.",
                    "Give both branches results of one type and shape.",
                    [condition],
                )
        outputs = {n: self.fresh(self.node.output[n], then.results[n]) for n in wanted}
        kept = [live(Region((), x.ops, tuple(x.results[n] for n in wanted))) for x in (then, orelse)]
        if wanted:
            name = outputs[wanted[0]].name
            self.importer.ops.append(If(name, condition, kept[0], kept[1], tuple(outputs.values()), self.loc))
        return [outputs.get(n, then.results[n]) for n in range(len(self.node.output))]
