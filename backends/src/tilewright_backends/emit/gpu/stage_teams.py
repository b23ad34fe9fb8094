"""Emits a stage that has fewer points than the block has threads: teams of threads share the reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

from tvm import tirx

from tilewright.ir.expr import Expr, const, loads, minimum, variables
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import both, count, decompose
from tilewright_backends.emit.gpu.states import States
from tilewright_backends.emit.gpu.teams import Teams, merge
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import Point, combine
from tilewright_backends.lower.types import Prim

_UNROLL = 16
"""Steps of a thread up to which they are written out, so that their loads overlap."""
_EARLY = 4
"""Operands of an epilogue that are loaded before the reduction: each takes a register until it is used."""

Place = tuple[dict[str, Expr], Prim | None]
"""The values of axes at a point, and whether it is one (None: always)."""
MakePoint = Callable[[FlatSpec, Mapping[str, Expr], Mapping[int, Prim]], Point]


def team_stage(
    body: GpuBody,
    spec: FlatSpec,
    teams: Teams,
    place: Callable[[Expr], Place],
    point_of: MakePoint,
    tables: Sequence[Prim],
) -> None:
    """The statements of a stage; `teams.points` are those of its box.

    Args:
        place: the place of a number.
        point_of: a specification's point at values of axes, with what is loaded already.
        tables: shared memory for a state of each thread.
    """
    assert spec.combiner is not None
    lane, which = at = teams.split(body)
    mine = both(body.below(which, teams.points), body.below(lane, teams.lanes))
    number = which if mine is None else body.hold(minimum(which, const(teams.points - 1)), "number")
    axes, inside = place(number)
    inside = both(mine, inside)
    early = {} if inside is not None else _early(point_of(spec, axes, {}), spec)
    states = States(body, spec.combiner.dtypes)
    states.write([types.literal(x.value, types.carrier(x.dtype)) for x in spec.combiner.identity])
    with nullcontext() if inside is None else body.when(inside):
        _accumulate(body, spec, teams, lane, axes, states, point_of)
    merge(body, spec.combiner, states, teams, at, tables)
    first = body.index(lane < 1)
    with body.when(first if inside is None else tirx.And(first, inside)):
        point = point_of(spec, axes, early)
        point.give({f"s{i}": x for i, x in enumerate(states.read())})
        for store in spec.stores:
            point.store(store)


def _early(point: Point, spec: FlatSpec) -> dict[int, Prim]:
    """What the results are finished with, by slot."""
    found: dict[int, Prim] = {}
    for slot, access in list(enumerate(spec.reads))[spec.body_reads :]:
        steered = loads(access.address, access.guard)
        same = not variables(access.address, access.guard) & {x.name for x in spec.reduce}
        if len(found) < _EARLY and same and not steered:
            found[slot] = point.load(slot)
    return found


def _accumulate(
    body: GpuBody,
    spec: FlatSpec,
    teams: Teams,
    lane: Expr,
    axes: Mapping[str, Expr],
    states: States,
    point_of: MakePoint,
) -> None:
    """The lane's steps of the reduction."""
    combiner = spec.combiner
    assert combiner is not None
    total = count(spec.reduce)
    trips = -(-total // teams.lanes)
    with body.loop("step", trips, "unrolled" if trips <= _UNROLL else "serial") as trip:
        number = body.hold(trip * teams.lanes + lane, "r")
        there = body.below(number, total)
        with nullcontext() if there is None else body.when(there):
            point = point_of(spec, {**axes, **decompose(number, spec.reduce, body)}, {})
            new = [point.value(x) for x in spec.body]
            states.write(combine(body, body.semantics, combiner, states.read(), new))
