"""What would become of a model's nodes, before anything is compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tilewright.compiler import rules_of
from tilewright.config.binding import Settings
from tilewright.frontend.partition import Classification, Verdict, Where, classify
from tilewright.frontend.partition.types import described
from tilewright.frontend.source import Source

WHERE: tuple[Where, ...] = ("native", "constant", "specialised", "reference", "unsupported")
"""From the best to the worst."""


@attrs.frozen
class NodeReport:
    """What would become of one node of the main graph.

    Args:
        node: its name, or its first result's.
        operator: its type, with the domain in front where that is not ONNX's.
        where: see `Verdict`.
        why: what is in the way, or what must be given.
        on: what must be known before the node can be compiled: of `steering` names the value, of `open` the shape.
        inner: the nodes of its graphs, which go where it goes.
    """

    node: str
    operator: str
    where: Where
    why: str = ""
    steering: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()


@attrs.frozen
class Report:
    """What would become of a model.

    Args:
        nodes: in the model's order.
        unsized: inputs whose shapes must still be given, with what is declared.
    """

    nodes: tuple[NodeReport, ...]
    unsized: Mapping[str, str]

    def counts(self) -> dict[str, Counter[Where]]:
        """By operator, how many of its nodes go where."""
        found: dict[str, Counter[Where]] = {}
        for node in self.nodes:
            found.setdefault(node.operator, Counter())[node.where] += 1
        return dict(sorted(found.items()))

    def is_allowed(self, fallback: str, *, jit: bool) -> bool:
        """Whether every node runs, with `fallback` as the configuration has it.

        Args:
            jit: whether parts may be compiled when the program runs.
        """
        refused = {"unsupported"}
        refused |= set() if fallback == "reference" else {"reference"}
        refused |= set() if jit else {"specialised"}
        return not any(x.where in refused for x in self.nodes)


def check_model(
    source: Source,
    settings: Settings,
    shapes: Sequence[Mapping[str, Any]] = ({},),
    bind: Mapping[str, Any] | None = None,
) -> Report:
    """Asks what becomes of each node; for several sets of shapes the worst.

    Args:
        source: what `tilewright.frontend.source.read` made of the model.
        shapes: sets of shapes, as `tilewright.frontend.load` takes one.
        bind: inputs that are fixed to arrays.

    Raises:
        InputError: an argument cannot be used. What is wrong with the model is in the report.
    """
    table = rules_of(settings)
    reports = [_report(classify(source, table, one, bind, lenient=True)) for one in shapes]
    nodes = tuple(max(x, key=lambda y: WHERE.index(y.where)) for x in zip(*(r.nodes for r in reports), strict=True))
    return Report(nodes, {name: text for r in reports for name, text in r.unsized.items()})


def _report(found: Classification) -> Report:
    weights = found.source.weights
    inputs = {x.name for x in found.source.proto.graph.input if x.name not in weights}
    unsized = {x: found.open[x] for x in inputs if x in found.open and not found.open[x].is_opaque}
    # The inputs without sizes that a value's shape hangs on; None where it hangs on a run.
    hangs: dict[str, frozenset[str] | None] = {x: frozenset([x]) for x in unsized}
    nodes = []
    for verdict in found.verdicts:
        on = [hangs.get(x) for x in verdict.open]
        together = None if None in on else frozenset[str]().union(*(x for x in on if x is not None))
        nodes.append(_node(verdict, together or frozenset()))
        if verdict.where in ("native", "constant", "specialised") and not verdict.steering:
            hangs.update((x, together) for x in verdict.node.output)
    return Report(tuple(nodes), {name: described(x.type) for name, x in unsized.items()})


def _node(verdict: Verdict, unsized: frozenset[str]) -> NodeReport:
    """Args:
    unsized: inputs whose shapes are all that the node still needs.
    """
    node = verdict.node
    where, why = verdict.where, verdict.why
    if where == "specialised" and unsized and not verdict.steering:
        where, why = "native", f"once there is a shape of {', '.join(map(repr, sorted(unsized)))}"
    return NodeReport(
        node.name or next((x for x in node.output if x), ""),
        f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type,
        where,
        why,
        verdict.steering,
        verdict.open,
        verdict.inner if where in ("reference", "unsupported") else (),
    )
