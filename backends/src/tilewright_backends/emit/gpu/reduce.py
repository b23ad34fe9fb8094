"""Reductions: a block takes some points and gives each of them a team of lanes that share its reduction.

One lane per point is the plain serial loop, which also runs small windows (pooling, depthwise convolution) and every
kernel that no other recipe takes. Lanes lie side by side in memory along the reduction (`along_reduction`) or along
the points, whichever the loads want.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, as_expr, ceil_div, minimum
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import decompose, early_reads, point_at, points_in, whole
from tilewright_backends.emit.gpu.states import States
from tilewright_backends.emit.gpu.teams import Teams, merge, partials
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import combine
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.reduce import slices_of, teams_of
from tilewright_backends.recipes.gpu.slices import OWN, in_slices

_UNROLL = 64
"""Reductions of at most this many steps are unrolled."""


def emit(body: GpuBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    teams = teams_of(spec)
    if teams is None:
        raise InternalError(f"reduce does not take kernel {kernel.name}.")
    flat = teams.spec
    if body.sliced:
        (row,), found = flat.spatial, slices_of(flat, spec)
        flat = attrs.evolve(flat, reads=tuple(in_slices(x, found, row.name, flat.bounds()) for x in flat.reads))
    statements(body, flat, kernel.choice["x.block"], kernel.choice["lanes"], teams.along_reduction)


def statements(body: GpuBody, spec: FlatSpec, points: int, lanes: int, along_reduction: bool) -> None:
    """Statements of one task: `points` points with `lanes` threads each (`points * lanes` is the block).

    Args:
        lanes: a power of two; 1 unless the combiner is associative and commutative.
        along_reduction: neighbouring threads are lanes of one point, otherwise the same lane of neighbouring points.
    """
    total, teams = points_in(spec.spatial), Teams(points, lanes, along_reduction)
    lane, which = teams.split(body)
    number = body.hold(body.task * points + which, "point")
    edge = not whole(total, points)
    inside = body.bind(body.index(number < total), "inside") if edge else None
    if edge:
        number = body.hold(minimum(number, as_expr(total) - 1), "point")
    own = body.hold(number - body.task * points, "own") if edge else which
    at = {**decompose(number, spec.spatial, body), OWN: own}
    early = early_reads(body, spec, at)
    states = _accumulate(body, spec, at, lane, lanes)
    if lanes > 1:
        assert spec.combiner is not None
        tables = partials(body, spec.combiner.dtypes, teams)
        merge(body, spec.combiner, states, teams, (lane, which), tables)
        first = body.index(lane < 1)
        inside = first if inside is None else tirx.And(inside, first)
    if inside is None:
        _finish(body, spec, at, states, early)
    else:
        with body.when(inside):
            _finish(body, spec, at, states, early)


def _finish(body: GpuBody, spec: FlatSpec, at: dict[str, Expr], states: States, early: dict[int, Prim]) -> None:
    point = point_at(body, spec, at, states.read(), early)
    for store in spec.stores:
        point.store(store)


def _accumulate(body: GpuBody, spec: FlatSpec, at: dict[str, Expr], lane: Expr, lanes: int) -> States:
    """The states of the reduction steps `lane, lane + lanes, …` in registers."""
    combiner = spec.combiner
    assert combiner is not None
    states = States(body, combiner.dtypes)
    states.write([types.literal(x.value, types.carrier(x.dtype)) for x in combiner.identity])

    def step(reduced: dict[str, Expr]) -> None:
        point = point_at(body, spec, {**at, **reduced})
        new = [point.value(x) for x in spec.body]
        states.write(combine(body, body.semantics, combiner, states.read(), new))

    total = points_in(spec.reduce)
    if lanes == 1:
        nest(body, spec, {}, step, isinstance(total, int) and total <= _UNROLL)
        return states
    with body.loop("step", body.simplify(ceil_div(total, lanes))) as trip:
        number = body.hold(trip * lanes + lane, "r")
        if not whole(total, lanes):
            with body.when(body.index(number < total)):
                step(decompose(number, spec.reduce, body))
        else:
            step(decompose(number, spec.reduce, body))
    return states


def nest(
    body: GpuBody, spec: FlatSpec, done: dict[str, Expr], step: Callable[[dict[str, Expr]], None], unroll: bool
) -> None:
    """Loops over the reduce axes that are not in `done`."""
    rest = spec.reduce[len(done) :]
    if not rest:
        step(done)
        return
    with body.loop("r", rest[0].extent, "unrolled" if unroll else "serial") as index:
        nest(body, spec, {**done, rest[0].name: index}, step, unroll)
