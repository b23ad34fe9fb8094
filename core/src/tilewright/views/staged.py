"""StagedSpec: a group of several loop nests, which run one after the other on what a task has on chip.

A value at level "shared" of a group parts the operator that makes it from those that read it: each part is a loop nest,
a stage, and the value passes from stage to stage on chip. What is at level "register" stays within its nest.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import attrs

from tilewright.ir.group import Group, KernelOp
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Location, TensorOp, Value
from tilewright.views.kernel import KernelSpec, normalise
from tilewright.views.symbols import group_symbols


@attrs.frozen(cache_hash=True)
class StagedSpec:
    """Loop nests in execution order.

    Args:
        stages: their specifications. A later one reads what earlier ones store.
        kept: values that pass from stage to stage, in the order in which they are made.
        outputs: values that are read outside of the group.
        constants: names of the values that are known at compile time.
        symbols: those that extents, indices or values use.
    """

    name: str
    stages: tuple[KernelSpec, ...]
    kept: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: frozenset[str] = frozenset()
    symbols: tuple[Symbol, ...] = ()

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read from outside."""
        read = (value for stage in self.stages for value in stage.inputs)
        return tuple(dict.fromkeys(x for x in read if x not in self.kept))

    @property
    def locations(self) -> tuple[Location, ...]:
        """The ONNX nodes that went in."""
        return tuple(x for stage in self.stages for x in stage.locations)


def is_staged(group: Group) -> bool:
    """Whether the group is of several stages."""
    return any(level == "shared" for _, level in group.levels)


def staged_of(group: Group, constants: Container[str] = (), symbols: tuple[Symbol, ...] = ()) -> StagedSpec | None:
    """The group as stages, or None when one of them is no loop nest, or they need each other in a circle.

    Args:
        constants: names of the values that are known at compile time.
        symbols: those of the module, or of the group.
    """
    if not all(isinstance(op, TensorOp) for op in group.ops):
        return None
    parts = _parts(group)
    if parts is None:
        return None
    stages: list[KernelSpec] = []
    for number, part in enumerate(parts):
        elsewhere = {v for other in parts if other is not part for op in other for v in op.inputs}
        made = [v for op in part for v in op.outputs if v is not None]
        leaving = tuple(v for v in made if v in elsewhere or v in group.outputs)
        levels = tuple((n, level) for n, level in group.levels if level == "register")
        stage = normalise(Group(f"{group.name}.{number}", tuple(part), leaving, levels), constants, symbols)
        if stage is None:
            return None
        stages.append(stage)
    read = {v for stage in stages for v in stage.inputs}
    kept = tuple(v for stage in stages for v in stage.outputs if v in read)
    known = frozenset(v.name for stage in stages for v in stage.inputs if v.name in constants)
    return StagedSpec(group.name, tuple(stages), kept, group.outputs, known, group_symbols(group, symbols))


def _parts(group: Group) -> list[list[KernelOp]] | None:
    """The operators of each stage, stages in an order in which they can run; None when there is no such order."""
    number = {v: i for i, op in enumerate(group.ops) for v in op.outputs if v is not None}
    leader = list(range(len(group.ops)))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for i, op in enumerate(group.ops):
        for value in op.inputs:
            if value in number and group.level(value.name) == "register":
                leader[find(i)] = find(number[value])
    members: dict[int, list[int]] = {}
    for i in range(len(group.ops)):
        members.setdefault(find(i), []).append(i)
    return _ordered(group, list(members.values()), number)


def _ordered(group: Group, parts: Sequence[list[int]], number: dict[Value, int]) -> list[list[KernelOp]] | None:
    """Parts sorted so that each comes after those it reads from; None when they read in a circle."""
    home = {i: k for k, part in enumerate(parts) for i in part}
    needs = [
        {home[number[v]] for i in part for v in group.ops[i].inputs if v in number} - {k}
        for k, part in enumerate(parts)
    ]
    done: list[int] = []
    left = list(range(len(parts)))
    while left:
        ready = next((k for k in left if needs[k] <= set(done)), None)
        if ready is None:
            return None
        done.append(ready)
        left.remove(ready)
    return [[group.ops[i] for i in parts[k]] for k in done]
