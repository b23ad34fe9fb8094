"""Parts of a model: sets of nodes that run one after the other, each by one means.

Every node gets a level, even where it is compiled and odd where ONNX's reference evaluator runs it. A level is never
lower than those of what the node reads, and higher than that of a value which must be known before the node can be
compiled, or whose rows are counted once it is computed. The nodes of a level are a part. No path leaves a part and
comes back, since levels never fall along it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy.typing as npt
import onnx

from tilewright.frontend.partition.classify import Classification
from tilewright.frontend.partition.verdict import Verdict
from tilewright.frontend.reference import reads
from tilewright.frontend.source import Source

Array = npt.NDArray[Any]
Means = Literal["native", "specialise", "reference"]

_FROM_SHAPES = ("Shape", "Size")


@attrs.frozen
class Part:
    """Nodes that run by one means, as a model of their own.

    Args:
        source: inputs that are open have no shape in it, or no type; constants are among its weights.
        steering: inputs that must be known as values before the part can be compiled.
    """

    means: Means
    source: Source
    verdicts: tuple[Verdict, ...]
    steering: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.source.proto.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.source.proto.graph.output)


def cut(found: Classification) -> tuple[Part, ...]:
    """The parts of a model, in the order in which they run. Constant nodes are in none: their results are weights."""
    levels = _levels(found)
    graph = found.source.proto.graph
    wanted = [x.name for x in graph.output]
    if any(_is_copied(found, x) for x in wanted):
        levels.setdefault(0, [])  # by the first compiled part
    ordered = sorted(levels)
    return tuple(_part(found, levels, level, wanted) for level in ordered)


def _is_copied(found: Classification, name: str) -> bool:
    """Whether an output is a tensor that no node computes: a constant or an input."""
    given = {x.name for x in found.source.proto.graph.input}
    return name in found.constants or (name in given and name not in found.open)


def _levels(found: Classification) -> dict[int, list[Verdict]]:
    """The nodes by level, in their order."""
    at: dict[str, int] = {}
    levels: dict[int, list[Verdict]] = {}
    # From which small inputs alone a value follows, once shapes are known. One that is not here hangs on data.
    roots: dict[str, frozenset[str]] = {x: frozenset() for x in found.constants}
    roots |= {x: frozenset([x]) for x in found.steerable}
    for verdict in found.verdicts:
        if verdict.where == "constant":
            continue
        node = verdict.node
        needed = reads(node)
        compiled = verdict.where in ("native", "specialised")
        level = max((at[x] for x in needed if x in at), default=0)
        level += level % 2 != (0 if compiled else 1)
        if compiled:
            known_first = max((at[x] for x in verdict.steering if x in at and x not in roots), default=-2)
            level = max(level, known_first + 2)
        levels.setdefault(level, []).append(verdict)
        at.update((x, level + 2 if x in found.cut else level) for x in node.output if x)
        if compiled and node.op_type in _FROM_SHAPES:
            roots.update((x, frozenset()) for x in node.output)
        elif compiled and all(x in roots for x in needed):
            inherited = frozenset[str]().union(*(roots[x] for x in needed))
            roots.update((x, inherited) for x in node.output)
    return levels


def _part(found: Classification, levels: Mapping[int, Sequence[Verdict]], level: int, wanted: Sequence[str]) -> Part:
    """The nodes of a level as a model."""
    verdicts = tuple(levels[level])
    made = {x for verdict in verdicts for x in verdict.node.output if x}
    needed = _ordered(x for verdict in verdicts for x in (*verdict.node.input, *sorted(reads(verdict.node))))
    later = {x for other, others in levels.items() if other != level for v in others for x in reads(v.node)}
    outputs = [x for x in _ordered(_outputs(verdicts)) if x in later or x in wanted]
    if level == 0:
        outputs += [x for x in _ordered(wanted) if _is_copied(found, x)]
    weights = {x: found.constants[x] for x in (*needed, *outputs) if x in found.constants}
    inputs = [x for x in (*needed, *outputs) if x not in made and x not in weights and x]
    source = _source(found, verdicts, _ordered(inputs), outputs, weights)
    if level % 2:
        return Part("reference", source, verdicts)
    steering = tuple(x for x in _steering(verdicts, made) if x not in weights)
    is_open = any(x in found.open for x in inputs) or any(v.where == "specialised" for v in verdicts)
    return Part("specialise" if is_open else "native", source, verdicts, steering)


def _outputs(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        yield from verdict.node.output


def _ordered(names: Iterator[str] | Sequence[str]) -> list[str]:
    """Each name once, in the order in which they come first."""
    return [x for x in dict.fromkeys(names) if x]


def _steering(verdicts: Sequence[Verdict], made: set[str]) -> list[str]:
    """The inputs of a part from which the values follow that steer its nodes; what follows from shapes needs none."""
    by_output = {x: v for v in verdicts for x in v.node.output if x}
    found: dict[str, None] = {}
    seen: set[str] = set()
    pending = [x for v in verdicts for x in v.steering]
    while pending:
        name = pending.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if name not in made:
            found[name] = None
        elif by_output[name].node.op_type not in _FROM_SHAPES:
            pending += sorted(reads(by_output[name].node))
    return list(found)


def _source(
    found: Classification,
    verdicts: Sequence[Verdict],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, Array],
) -> Source:
    whole = found.source.proto
    proto = onnx.ModelProto(ir_version=whole.ir_version)
    proto.opset_import.MergeFrom(whole.opset_import)
    proto.functions.MergeFrom(whole.functions)
    proto.graph.name = whole.graph.name or "graph"
    proto.graph.node.extend(x.node for x in verdicts)
    for infos, names in ((proto.graph.input, inputs), (proto.graph.output, outputs)):
        for name in names:
            info = infos.add(name=name)
            kind = found.types.get(name)
            if kind is not None:
                info.type.CopyFrom(kind)
    return Source(proto, dict(weights), found.source.opsets, found.source.folder)
