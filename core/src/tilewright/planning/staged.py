"""`planner = "staged"`: connect, propose, schedule and place, one after the other, then storage.

It bounds what techniques may ask of each other: the host plus one trial per loop nest, two rounds of proposals per
kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.module import Module
from tilewright.ir.ops import Region, Value
from tilewright.ir.program import HostCopy, HostStep, Program
from tilewright.planning.requests import Planner
from tilewright.planning.session import Session
from tilewright.planning.storage import allocate, lifetimes
from tilewright.views.layout import is_view


def make() -> Planner:
    """The service."""

    def plan(module: Module, session: Session) -> Program:
        body = module.main.body
        cover = session.run_passes("connect", session.connect(body))
        cover, aliases = without_views(cover)
        outputs, copies = _outputs(body, frozenset(module.constants))
        session.aliases.update(aliases)
        steps: tuple[HostStep, ...] = (*session.place(cover), *copies)
        return _program(module, session, steps, outputs, cover)

    return plan


def without_views(cover: Cover) -> tuple[Cover, dict[str, str]]:
    """The cover without groups that move no bytes, and the name that stands for each value they made.

    A view of an intermediate value that is a result of the region is computed in the result's place.
    """
    aliases: dict[str, str] = {}
    results = {v.name for v in cover.region.results}
    made = {v.name for item in cover.items for v in item.outputs}
    kept: list[Group | ControlItem] = []
    taken: set[str] = set()
    for item in cover.items:
        if isinstance(item, Group) and len(item.ops) == 1 and is_view(item.ops[0]):
            source, target = item.inputs[0].name, item.outputs[0].name
            root = aliases.get(source, source)
            if target not in results:
                aliases[target] = root
                continue
            if root in made and root not in results and root not in taken:
                taken.add(root)
                aliases[root] = target
                aliases.update({k: target for k, v in aliases.items() if v == root})
                continue
        kept.append(item)
    return attrs.evolve(cover, items=tuple(kept)), aliases


def _outputs(body: Region, constants: frozenset[str]) -> tuple[tuple[Value, ...], list[HostCopy]]:
    """The model's outputs, and copies for those that are inputs, constants or the same value twice."""
    taken = {v.name for v in body.params} | constants
    outputs: list[Value] = []
    copies: list[HostCopy] = []
    for i, result in enumerate(body.results):
        if result.name in taken:
            copy = attrs.evolve(result, name=f"{result.name}.output{i}")
            copies.append(HostCopy(result.name, copy.name))
            outputs.append(copy)
        else:
            outputs.append(result)
        taken.add(result.name)
    return tuple(outputs), copies


def _program(
    module: Module, session: Session, steps: Sequence[HostStep], outputs: tuple[Value, ...], cover: Cover
) -> Program:
    values = {**_values(cover), **{v.name: v for v in (*outputs, *module.main.body.params)}}
    used = lifetimes(steps).keys()
    packed = {name: p for name, p in session.table.packed.items() if name in used}
    plain = [name for name in module.constants if name in used]
    weights = [module.constants[name].value(name) for name in plain] + [p.value for p in packed.values()]
    storage = allocate(steps, values, module.main.body.params, outputs, weights)
    needed = {*plain, *(p.access.value.name for p in packed.values())}
    return Program(
        inputs=module.main.body.params,
        outputs=outputs,
        kernels=session.table.kernels,
        body=tuple(steps),
        storage=storage,
        constants={name: c for name, c in module.constants.items() if name in needed},
        packed=packed,
        symbols=module.symbols,
    )


def _values(cover: Cover) -> dict[str, Value]:
    found = {v.name: v for item in cover.items for v in (*item.inputs, *item.outputs)}
    for item in cover.items:
        if isinstance(item, ControlItem):
            for body in item.bodies:
                found |= _values(body)
    return found
