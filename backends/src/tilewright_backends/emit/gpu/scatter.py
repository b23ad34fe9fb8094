"""Scatters: every thread owns some elements of the result and applies the updates that hit them, in order.

It copies their base first. No atomics and no second pass, so the result does not depend on timing and duplicates keep
their order. Each thread walks over the rows of all updates (`recipes/gpu/scatter.py`); the recipe keeps the number of
threads small.
"""

from __future__ import annotations

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const, Expr
from tilewright.ir.ops import Axis
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import both, count, decompose, point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec, FlatStore
from tilewright_backends.lower.point import combine
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.common import flat_spec
from tilewright_backends.recipes.gpu.scatter import columns

_ALWAYS = types.literal(1, "bool")


def elements(store: FlatStore) -> int:
    """Number of elements of the stored value."""
    total = store.value.num_elements()
    if not isinstance(total, Const):
        raise InternalError(f"{store.value.name} has no literal shape.")
    return int(total.value)


def emit(body: GpuBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    flat = flat_spec(spec)
    if flat is None:
        raise InternalError(f"scatter does not take kernel {kernel.name}.")
    statements(body, flat)


def statements(body: GpuBody, spec: FlatSpec) -> None:
    """Statements of one task: one column of each of the rows that this thread owns, or some where it owns more."""
    if spec.combiner is not None:
        raise InternalError("a scatter of reductions must be split into two kernels.")
    owners = body.tasks * body.threads
    me = body.hold(body.task * body.threads + body.thread, "me")
    for store in spec.stores:
        inner, width = columns(spec, store)
        teams, lanes = max(owners // width, 1), min(owners, width)
        team, lane = body.hold(me // lanes, "team"), body.hold(me % lanes, "lane")
        mine = _unless(owners == teams * lanes, body, team < teams)
        with body.when(mine), body.loop("pass", -(-width // lanes)) as trip:
            column = body.hold(trip * lanes + lane, "column")
            with body.when(_unless(width % lanes == 0, body, column < width)):
                _copy(body, store, width, teams, team, column)
                _updates(body, spec, store, inner, width, teams, team, column)


def _unless(sure: bool, body: GpuBody, condition: Expr) -> Prim:
    return _ALWAYS if sure else body.index(condition)


def _copy(body: GpuBody, store: FlatStore, width: int, teams: int, team: Expr, column: Expr) -> None:
    """The base of the rows of a team."""
    if store.base is None:
        return
    source, target = body.params[store.base.name], body.params[store.value.name]
    rows = elements(store) // width
    with body.loop("own", -(-rows // teams)) as trip:
        row = body.hold(trip * teams + team, "row")
        with body.when(_unless(rows % teams == 0, body, row < rows)):
            place = body.index(row * width + column)
            body.store(target, place, source[place])


def _updates(
    body: GpuBody,
    spec: FlatSpec,
    store: FlatStore,
    inner: tuple[Axis, ...],
    width: int,
    teams: int,
    team: Expr,
    column: Expr,
) -> None:
    """What hits the rows of a team, in order."""
    outer = [x for x in spec.spatial if x not in inner]
    along = decompose(column, inner, body) if inner else {}
    with body.loop("update", count(outer)) as number:
        at = {**(decompose(number, outer, body) if outer else {}), **along}
        point = point_at(body, spec, at)
        address = body.bind(point.index(store.address), "address")
        place = body.define("place", address, Interval(0, max(elements(store) - 1, 0)))
        mine = None if teams == 1 else tirx.EQ(body.index(place // width % teams), body.index(team))
        guard = None if store.guard is None else point.index(store.guard)
        condition = both(mine, guard)
        with body.when(_ALWAYS if condition is None else condition):
            here = point_at(body, spec, at)
            states = [here.value(x) for x in spec.body]
            value = point_at(body, spec, at, states).value(store.expr)
            target = body.params[store.value.name]
            if store.update is not None:
                old = body.bind(types.from_storage(target[address], store.value.dtype), "old")
                (value,) = combine(body, body.semantics, store.update, [old], [value])
            body.store(target, address, types.to_storage(value, store.value.dtype))
