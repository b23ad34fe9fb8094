"""`planner = "staged"`: connect, propose, schedule and place, one after the other, then storage.

It bounds what techniques may ask of each other: the host plus one trial per loop nest, two rounds of proposals per
kernel.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial

import attrs

from tilewright.errors import InputError, InternalError
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.module import Module
from tilewright.ir.ops import Value
from tilewright.ir.program import HostStep, Procedure, Program, Step, launches
from tilewright.ir.verify import verify_cover
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.functions import functions_of
from tilewright.planning.requests import Planner
from tilewright.planning.session import Session
from tilewright.planning.storage import FRAMES, WORKSPACE, Part, allocate, lifetimes, procedure_lifetimes
from tilewright.rewrites.calls import reached, separate_entry, unique_names
from tilewright.rewrites.weights import weights_by_rows
from tilewright.views.layout import is_view, part_offset


def make() -> Planner:
    """The service."""

    def plan(module: Module, session: Session) -> Program:
        module = session.stage("control_rewrite", module, session.rewrite_control)
        module = unique_names(separate_entry(reached(module)))
        if session.turns_weights and session.device.kind == "cuda":  # whose units keep rows of weights
            module = weights_by_rows(module)
        session.tensors.update(module.constants)
        session.inputs = frozenset(x.name for x in module.main.body.params)
        covers = {name: _cover(module, name, session) for name in module.functions}
        module = attrs.evolve(module, constants=session.tensors)
        functions, shared = functions_of(module)
        session.functions = attrs.evolve(functions, covers={x: covers[x] for x in functions.params})
        session.aliases.update(shared)
        # The entry first: its calls decide where shared parameters stand.
        order = [module.entry, *(x for x in covers if x != module.entry)]
        names = {x: x if x in functions.params else "" for x in order}
        steps = {x: session.stage("control_place", covers[x], partial(session.place, function=names[x])) for x in order}
        entry = _of_host(steps[module.entry])
        procedures = {
            name: Procedure(
                name,
                session.functions.passed(name),
                tuple(steps[name]),
                tuple(session.place_of(x.name) for x in covers[name].region.results),
            )
            for name in order[1:]
        }
        return _program(module, session, entry, procedures, covers)

    return plan


def _of_host(steps: Sequence[Step]) -> tuple[HostStep, ...]:
    """The steps of the entry. Raises InternalError where the placer gave parts of a launch instead."""
    found = tuple(x for x in steps if isinstance(x, HostStep))
    if len(found) < len(steps):
        raise InternalError("the placer gave parts of a launch for the entry of the module, which the host runs.")
    return found


def _cover(module: Module, function: str, session: Session) -> Cover:
    """The cover of a function, without views."""
    cover = session.stage("connect", module.functions[function].body, session.connect)
    if session.verify_stages:
        verify_cover(cover, constants=session.constants)
    without = without_views(cover, session.inputs)
    session.aliases.update(without.aliases)
    session.parts.update(without.parts)
    return without.cover


@attrs.define
class WithoutViews:
    """A cover without the groups that move no bytes.

    Args:
        aliases: the name that stands for each value that such a group made.
        parts: of these values the ones that are parts of inputs.
    """

    cover: Cover
    aliases: dict[str, str] = attrs.field(factory=dict)
    parts: dict[str, Part] = attrs.field(factory=dict)


def without_views(cover: Cover, inputs: Container[str] = ()) -> WithoutViews:
    """The cover without groups that move no bytes.

    A view of an intermediate value that is a result of its region is computed in the result's place. Covers inside
    control flow lose their views too.

    Args:
        inputs: names of the program's inputs, of which aligned parts need no kernel either.
    """
    found = WithoutViews(cover)
    found.cover = _without_views(cover, inputs, found)
    return found


def _without_views(cover: Cover, inputs: Container[str], found: WithoutViews) -> Cover:
    results = {v.name for v in cover.region.results}
    made = {v.name for item in cover.items for v in item.outputs}
    aliases = found.aliases
    kept: list[Group | ControlItem] = []
    taken: set[str] = set()
    for item in cover.items:
        if isinstance(item, ControlItem):
            kept.append(attrs.evolve(item, bodies=tuple(_without_views(x, inputs, found) for x in item.bodies)))
            continue
        if len(item.ops) == 1 and is_view(item.ops[0]):
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
        if len(item.ops) == 1 and (offset := part_offset(item.ops[0], inputs)) is not None:
            (value,) = item.outputs
            if value.name not in results:
                found.parts[value.name] = Part(value, item.inputs[0].name, offset)
                continue
        kept.append(item)
    return attrs.evolve(cover, items=tuple(kept))


def _program(
    module: Module,
    session: Session,
    steps: Sequence[HostStep],
    procedures: Mapping[str, Procedure],
    covers: Mapping[str, Cover],
) -> Program:
    body = module.main.body
    values = {v.name: v for v in (*body.params, *body.results)}
    for cover in covers.values():
        values = {**_values(cover), **values}
    values |= {twin: attrs.evolve(values[name], name=twin) for twin, name in session.twins.items() if name in values}
    used = {*lifetimes(steps), *(name for p in procedures.values() for name in procedure_lifetimes(p))}
    called = tuple(procedures.values())
    started = launches((*steps, *(step for p in called for step in p.host)))
    run = {x.kernel for parts in (*(y.body for y in started), *(p.parts for p in called)) for x in tasks_of(parts)}
    kernels = {name: kernel for name, kernel in session.table.kernels.items() if name in run}
    read = {name: p for name, p in session.table.packed.items() if name in used}
    # Another kernel may run what a kernel was made for, whose packed constant still says what its parameters mean.
    packed = {**read, **{x.name: session.table.packed[x.name] for k in kernels.values() for _, x in k.packed}}
    plain = [name for name in module.constants if name in used]
    weights = [module.constants[name].value(name) for name in plain] + [p.value for p in read.values()]
    bounds = {x.name: x.interval for x in module.symbols}
    parts = [x for name, x in session.parts.items() if name in used]
    storage = allocate(steps, values, body.params, body.results, weights, called, bounds, kernels, parts)
    session.record.storage(storage, WORKSPACE)
    needed = {*plain, *(p.access.value.name for p in packed.values())}
    program = Program(
        inputs=body.params,
        outputs=body.results,
        input_names=module.input_names,
        output_names=module.output_names,
        lengths=module.lengths,
        kernels=kernels,
        body=tuple(steps),
        storage=storage,
        constants={name: c for name, c in module.constants.items() if name in needed},
        packed=packed,
        symbols=module.symbols,
        procedures=procedures,
        depth=module.depth if procedures else 0,
    )
    _check_memory(program, session)
    return program


def _check_memory(program: Program, session: Session) -> None:
    """Refuses a bound on recursion whose frames the device cannot hold."""
    frames = program.storage.buffers.get(FRAMES)
    memory = session.device.level("dram").bytes
    if frames is not None and program.size_of(frames) > memory:
        count = program.depth * program.regions
        raise InputError(
            f"Recursion of {program.depth} calls takes {count} frames of {frames.bytes} bytes, and "
            f"{session.device.name} has {memory} bytes of memory.",
            f"Lower the module's depth to at most {memory // (frames.bytes * program.regions)}.",
        )


def _values(cover: Cover) -> dict[str, Value]:
    found = {v.name: v for item in cover.items for v in (*item.inputs, *item.outputs)}
    found |= {v.name: v for v in (*cover.region.params, *cover.region.results)}
    for item in cover.items:
        if isinstance(item, ControlItem):
            for body in item.bodies:
                found |= _values(body)
    return found
