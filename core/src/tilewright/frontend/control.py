"""`If`, `Loop` and `Scan` as operators with regions.

A region is imported once, with parameters of the types that it is first entered with. A branch on a constant needs no
region: it is imported in the place of the `If`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import attrs
import numpy as np
import onnx

from tilewright.errors import InputError
from tilewright.frontend import fold
from tilewright.frontend.appends import Append, add_appending, appends
from tilewright.frontend.loops import Loops, RaggedError
from tilewright.frontend.regions import Regions, flat
from tilewright.frontend.scans import Scans
from tilewright.frontend.scope import Entry, Scope
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
    outputs: Sequence[Entry]
    match node.op_type:
        case "If":
            outputs = _Branches(importer, node, scope, what).branch(inputs)
        case "Loop":
            if (grown := appends(node)) and _appended(importer, node, scope, what, grown):
                return
            outputs = Loops(importer, node, scope, what).loop(inputs)
        case _:
            outputs = Scans(importer, node, scope, what).scan(inputs)
    for name, found in zip(node.output, outputs, strict=False):
        if name:
            scope.bind(name, found)


def _appended(importer: Importer, node: onnx.NodeProto, scope: Scope, what: str, grown: Sequence[Append]) -> bool:
    """Imports a loop by what its states grow by; False, and nothing is left of it, where that differs between trips."""
    before = len(importer.ops)
    try:
        add_appending(importer, node, scope, what, grown)
    except RaggedError:
        del importer.ops[before:]
        return False
    return True


@attrs.frozen
class _Branches(Regions):
    """An `If`."""

    def branch(self, inputs: Sequence[Value | None]) -> list[Entry]:
        """The outputs of an `If`. A sequence that both branches give with one length is an output per element."""
        (condition,) = inputs
        assert condition is not None
        known = self.importer.data(condition)
        graphs = [fold.attribute(self.node, name) for name in ("then_branch", "else_branch")]
        if known is not None:
            return self.inline(graphs[0 if bool(np.asarray(known).reshape(())) else 1], [])
        condition = self.scalar(condition, "condition")
        given: list[list[Entry]] = []

        def fill(graph: onnx.GraphProto) -> list[Value]:
            given.append(self.inline(graph, [])[: len(self.node.output)])
            return [*flat(given[-1])]

        then, orelse = (self.region((), partial(fill, graph)) for graph in graphs)
        for entries in given:
            if len(entries) < len(self.node.output):
                raise InputError(
                    f"A branch of {self.what} has {len(entries)} outputs, the node {len(self.node.output)}.",
                    "Repair the model.",
                )
        lengths = [[len(x) if isinstance(x, tuple) else None for x in entries] for entries in given]
        if lengths[0] != lengths[1]:
            raise self.importer.needed(
                f"Whether {self.what} gives a sequence, or how long it is, hangs on the condition.",
                "Give both branches sequences of one length.",
                [condition],
            )
        names = [
            name
            for output, count in zip(self.node.output, lengths[0], strict=True)
            for name in ([output] if count is None else [output and f"{output}.{n}" for n in range(count)])
        ]
        wanted = [n for n, name in enumerate(names) if name]
        for n in wanted:
            a, b = then.results[n], orelse.results[n]
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                shown = [f"{x.dtype}{list(x.static_shape())}" for x in (a, b)]
                raise self.importer.needed(
                    f"Output {names[n]!r} of {self.what} is {shown[0]} or {shown[1]}, by the condition.",
                    "Give both branches results of one type and shape.",
                    [condition],
                )
        outputs = {n: self.fresh(names[n], then.results[n]) for n in wanted}
        kept = [live(Region((), x.ops, tuple(x.results[n] for n in wanted))) for x in (then, orelse)]
        if wanted:
            name = outputs[wanted[0]].name
            self.importer.ops.append(If(name, condition, kept[0], kept[1], tuple(outputs.values()), self.loc))
        found = iter([outputs.get(n, then.results[n]) for n in range(len(names))])
        return [next(found) if count is None else tuple(islice(found, count)) for count in lengths[0]]
