"""The graph of a program's kernels, whatever planned it: what is in each of them, and what passes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.bounds import Bounds
from tilewright.ir.group import Level
from tilewright.ir.program import Kernel, Program
from tilewright.pictures.flow import CALL, Flow, Use, flow_of
from tilewright.planning.requests import Decision
from tilewright.planning.storage import byte_size


@attrs.frozen
class Passing:
    """A value and its bytes, by the bounds of the symbols."""

    name: str
    bytes: int


@attrs.frozen
class Operator:
    """An operator in a kernel: ONNX's name of it, and the name in the plan, or "" where that is not known."""

    kind: str
    name: str


@attrs.frozen
class Inner:
    """A value that passes from one operator of a kernel to another, by number, and where it lives."""

    source: int
    target: int
    level: Level
    bytes: int


@attrs.frozen
class Box:
    """One use of a kernel, or a call of a function.

    Args:
        name: of the launch or the group that the kernel runs here; of the function.
        kernel: its name in the program; equal groups share one. "": it is a call.
        seconds: predicted.
        inputs, outputs: of the model, that are read or made here.
        weights: bytes of constants that are read.
        scopes: the loops, branches and functions around it, outermost first.
        why: reasons that the connector gave for its operators.
    """

    name: str
    kernel: str = ""
    recipe: str = ""
    seconds: float = 0.0
    operators: tuple[Operator, ...] = ()
    inner: tuple[Inner, ...] = ()
    inputs: tuple[Passing, ...] = ()
    outputs: tuple[Passing, ...] = ()
    weights: int = 0
    scopes: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


@attrs.frozen
class Edge:
    """What passes from one box to another, by number; `carried` where a loop's next trip reads it."""

    source: int
    target: int
    values: tuple[Passing, ...]
    carried: bool = False

    @property
    def bytes(self) -> int:
        return sum(x.bytes for x in self.values)


@attrs.frozen
class Graph:
    """Kernels in the order in which they run, and edges between them, sorted."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def graph_of(program: Program, decisions: Sequence[Decision]) -> Graph:
    """The graph of a plan's program, with names and reasons from the record of decisions."""
    flow = flow_of(program)
    symbols = {x.name: x.interval for x in program.symbols}
    maker = _Boxes(program, symbols, flow, _Told(decisions))
    edges = [
        Edge(s, t, tuple(maker.passing(x) for x in names), carried)
        for (s, t, carried), names in sorted(flow.edges.items())
    ]
    return Graph(tuple(maker.box(i, x) for i, x in enumerate(flow.uses)), tuple(edges))


class _Told:
    """What the record says of groups."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.kernels: dict[str, str] = {}
        self.groups: dict[str, str] = {}
        self.members: dict[str, list[str]] = {}
        self.why: dict[str, dict[str, None]] = {}
        for decision in decisions:
            chosen = decision.chosen
            if not isinstance(chosen, Mapping) or "kernel" not in chosen:
                continue
            if decision.slot == "propose":
                self.kernels[decision.subject] = chosen["kernel"]
            elif decision.slot == "connect":
                group = chosen["kernel"]
                self.groups[decision.subject] = group
                self.members.setdefault(group, []).append(decision.subject)
                if decision.why:
                    self.why.setdefault(group, {})[decision.why] = None

    def group(self, use: Use, kernel: Kernel) -> str:
        """The group that a kernel runs in a place.

        The launch is called like it, perhaps with more words after a dot where a body is there several times, or an
        operator in it is called like an output.
        """
        outputs = use.args[len(use.args) - len(kernel.group.outputs) :]
        own = [name for name, known in self.kernels.items() if known == kernel.name]
        named = [name for name in own if use.launch == name or use.launch.startswith(f"{name}.")]
        homes = [home for x in outputs if (home := self.groups.get(x)) in own]
        return max(named, key=len, default=next(iter(homes), kernel.group.name))

    def operators(self, group: str, kernel: Kernel) -> tuple[Operator, ...]:
        """The operators of a group that a kernel runs.

        The kernel knows those of the first of the equal groups. The others' follow by the order in which the connector
        told of both.
        """
        own = [op.name for op in kernel.group.ops]
        first, told = self.members.get(kernel.group.name, []), self.members.get(group, [])
        if group == kernel.group.name:
            names = own
        elif sorted(first) == sorted(own) and len(told) == len(own):
            names = [told[first.index(x)] for x in own]
        else:
            names = [""] * len(own)
        kinds = (op.loc.op_type or type(op).__name__ for op in kernel.group.ops)
        return tuple(map(Operator, kinds, names))


@attrs.frozen
class _Boxes:
    """Makes boxes."""

    program: Program
    symbols: Bounds
    flow: Flow
    told: _Told

    def passing(self, name: str) -> Passing:
        return Passing(name, self.program.storage.placements[name].bytes)

    def box(self, number: int, use: Use) -> Box:
        inputs = tuple(Passing(shown, self.passing(name).bytes) for shown, name in self.flow.inputs.get(number, ()))
        outputs = tuple(Passing(shown, self.passing(name).bytes) for shown, name in self.flow.outputs.get(number, ()))
        if use.kernel == CALL:
            return Box(use.launch, inputs=inputs, outputs=outputs, scopes=use.scopes)
        kernel = self.program.kernels[use.kernel]
        group = self.told.group(use, kernel)
        constants = {x for x in use.args if x in self.program.constants or x in self.program.packed}
        return Box(
            use.launch if use.launch.startswith(group) else group,
            kernel.name,
            kernel.choice.recipe,
            kernel.choice.cost,
            self.told.operators(group, kernel),
            self._inner(kernel),
            inputs,
            outputs,
            sum(self.passing(x).bytes for x in constants),
            use.scopes,
            tuple(self.told.why.get(group, ())),
        )

    def _inner(self, kernel: Kernel) -> tuple[Inner, ...]:
        maker: dict[str, int] = {}
        found = []
        for i, op in enumerate(kernel.group.ops):
            for value in op.inputs:
                if value.name in maker:
                    size = byte_size(value, self.symbols)
                    found.append(Inner(maker[value.name], i, kernel.group.level(value.name), size))
            maker |= {x.name: i for x in op.outputs}
        return tuple(found)
