"""Scatters: every thread owns some elements of the result and applies the updates that hit them, in order.

It copies their base first. No atomics and no second pass, so the result does not depend on timing and duplicates keep
their order. Each thread walks over all updates; the recipe keeps the number of threads small.
"""

from __future__ import annotations

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const, Expr
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import count, decompose, point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec, FlatStore
from tilewright_backends.lower.point import combine
from tilewright_backends.recipes.gpu.common import flat_spec


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
    """Statements of one task: the elements whose number leaves this thread's number modulo all threads."""
    if spec.combiner is not None:
        raise InternalError("a scatter of reductions must be split into two kernels.")
    owners = body.tasks * body.threads
    me = body.hold(body.task * body.threads + body.thread, "me")
    for store in spec.stores:
        target = body.params[store.value.name]
        if store.base is not None:
            source = body.params[store.base.name]
            with body.loop("own", -(-elements(store) // owners)) as trip:
                place = body.hold(trip * owners + me, "place")
                with body.when(body.index(place < elements(store))):
                    body.store(target, body.index(place), source[body.index(place)])
        with body.loop("update", count(spec.spatial)) as number:
            _update(body, spec, store, decompose(number, spec.spatial, body), me, owners)


def _update(body: GpuBody, spec: FlatSpec, store: FlatStore, at: dict[str, Expr], me: Expr, owners: int) -> None:
    point = point_at(body, spec, at)
    address = body.bind(point.index(store.address), "address")
    place = body.define("place", address, Interval(0, max(elements(store) - 1, 0)))
    mine = tirx.EQ(body.index(place % owners), body.index(me))
    guard = None if store.guard is None else point.index(store.guard)
    with body.when(mine if guard is None else tirx.And(mine, guard)):
        here = point_at(body, spec, at)
        states = [here.value(x) for x in spec.body]
        value = point_at(body, spec, at, states).value(store.expr)
        target = body.params[store.value.name]
        if store.update is not None:
            old = body.bind(types.from_storage(target[address], store.value.dtype), "old")
            (value,) = combine(body, body.semantics, store.update, [old], [value])
        body.store(target, address, types.to_storage(value, store.value.dtype))
