"""Parts of a model: sets of nodes that run one after the other, each by one means.

Every node gets a level, even where it is compiled and odd where ONNX's reference evaluator runs it. A level is never
lower than those of what the node reads, and higher than that of a value which must be known before the node can be
compiled, or whose rows are counted once it is computed. The nodes of a level are a part, or two: what can be compiled
now does not wait with what cannot. No path leaves a part and comes back, since levels never fall along it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy.typing as npt
import onnx

from tilewright.frontend.partition.levels import levels
from tilewright.frontend.partition.verdict import Classification, Verdict
from tilewright.frontend.reference import reads
from tilewright.frontend.source import Source

Array = npt.NDArray[Any]
Means = Literal["native", "specialise", "reference"]


@attrs.frozen
class Part:
    """Nodes that run by one means, as a model of their own.

    Args:
        source: inputs that are open have no shape in it, or no type; constants are among its weights.
    """

    means: Means
    source: Source
    verdicts: tuple[Verdict, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.source.proto.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.source.proto.graph.output)


def cut(found: Classification) -> tuple[Part, ...]:
    """The parts of a model, in the order in which they run. Constant nodes are in none: their results are weights."""
    wanted = _ordered(x.name for x in found.source.proto.graph.output)
    copied = [x for x in wanted if _is_copied(found, x)]
    together: dict[int, list[Verdict]] = {0: []} if copied else {}
    for level, verdict in levels(found):
        together.setdefault(level, []).append(verdict)
    groups = [(level, together[level]) for level in sorted(together)]
    if len(groups) > 1:
        groups = [(level, half) for level, group in groups for half in _halves(group, found.sequences) or [group]]
    read = [frozenset(x for verdict in group for x in reads(verdict.node)) for _, group in groups]
    parts = []
    for place, (level, group) in enumerate(groups):
        later = frozenset(wanted).union(*read[place + 1 :])
        outputs = [x for verdict in group for x in verdict.node.output if x in later]
        # An output that no node computes is copied by the first part, which is a compiled one then.
        parts.append(_part(found, group, outputs if place else [*outputs, *copied], is_reference=level % 2 == 1))
    return tuple(parts)


def _is_copied(found: Classification, name: str) -> bool:
    """Whether an output is a tensor that no node computes: a constant or an input."""
    given = {x.name for x in found.source.proto.graph.input}
    return name in found.constants or (name in given and name not in found.open)


def _halves(group: Sequence[Verdict], sequences: frozenset[str]) -> list[list[Verdict]]:
    """What can be compiled now, and what waits for a run or for something that does; a half of nothing is left out.

    Where a sequence would go from the one to the other, there is one half.
    """
    waiting: set[str] = set()
    now: list[Verdict] = []
    late: list[Verdict] = []
    for verdict in group:
        if verdict.where == "specialised" or not waiting.isdisjoint(reads(verdict.node)):
            late.append(verdict)
            waiting.update(x for x in verdict.node.output if x)
        else:
            now.append(verdict)
    made = {x for verdict in now for x in verdict.node.output if x in sequences}
    if any(not made.isdisjoint(reads(verdict.node)) for verdict in late):
        return [list(group)]
    return [half for half in (now, late) if half]


def _part(found: Classification, group: Sequence[Verdict], outputs: Sequence[str], *, is_reference: bool) -> Part:
    """Some nodes as a model with the given outputs."""
    made = {x for verdict in group for x in verdict.node.output if x}
    needed = _ordered(x for v in group for x in (*v.node.input, *sorted(reads(v.node))))
    weights = {x: found.constants[x] for x in (*needed, *outputs) if x in found.constants}
    inputs = [x for x in _ordered([*needed, *outputs]) if x not in made and x not in weights]
    source = _source(found, group, inputs, _ordered(outputs), weights)
    if is_reference:
        return Part("reference", source, tuple(group))
    waits = any(x in found.open for x in inputs) or any(x.where == "specialised" for x in group)
    return Part("specialise" if waits else "native", source, tuple(group))


def _ordered(names: Iterable[str]) -> list[str]:
    """Each name once, in the order in which they come first."""
    return [x for x in dict.fromkeys(names) if x]


def _source(
    found: Classification,
    group: Sequence[Verdict],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, Array],
) -> Source:
    whole = found.source.proto
    proto = onnx.ModelProto(ir_version=whole.ir_version)
    proto.opset_import.MergeFrom(whole.opset_import)
    proto.functions.MergeFrom(whole.functions)
    proto.graph.name = whole.graph.name or "graph"
    proto.graph.node.extend(x.node for x in group)
    for infos, names in ((proto.graph.input, inputs), (proto.graph.output, outputs)):
        for name in names:
            info = infos.add(name=name)
            kind = found.types.get(name)
            if kind is not None:
                info.type.CopyFrom(kind)
    return Source(proto, dict(weights), found.source.opsets, found.source.folder)
