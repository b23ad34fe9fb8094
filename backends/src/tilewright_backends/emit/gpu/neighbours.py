"""Several neighbouring points by one thread: what they share is loaded once, and memory is moved in vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tilewright.ir.expr import Expr
from tilewright.ir.ops import Axis
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import contiguous, load_words, point_at, store_words, varies
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim


def store_neighbours(
    body: GpuBody,
    spec: FlatSpec,
    at: Mapping[str, Expr],
    axis: Axis,
    lanes: int,
    states: Callable[[int, Point], Sequence[Prim]],
    first_read: int = 0,
) -> None:
    """Runs the epilogue at `lanes` neighbours along `axis`, and stores what it gives.

    Args:
        at: the first of them; its place on the axis and the axis' extent are multiples of `lanes`.
        states: of a neighbour by its number, given the point with what is loaded for it.
        first_read: reads from this slot on are needed.
    """
    start = point_at(body, spec, at)
    common: dict[int, Prim] = {}
    wide: dict[int, Prim] = {}
    for slot, access in enumerate(spec.reads[first_read:], first_read):
        if not varies(spec, slot, axis.name):
            common[slot] = start.load(slot)
        elif lanes > 1 and contiguous(spec, access, axis, lanes):
            source = body.params[access.value.name]
            wide[slot] = load_words(body, access.value.dtype, lanes, source, start.index(access.address))
    outputs = [
        body.registers(types.storage(s.value.dtype), lanes, "out")
        if lanes > 1 and contiguous(spec, s, axis, lanes)
        else None
        for s in spec.stores
    ]
    for lane in range(lanes):
        loaded = dict(common)
        for slot, registers in wide.items():
            loaded[slot] = types.from_storage(registers[i32(lane)], spec.reads[slot].value.dtype)
        here = {**at, axis.name: body.simplify(at[axis.name] + lane)}
        point = point_at(body, spec, here, states(lane, point_at(body, spec, here, (), loaded)), loaded)
        for store, registers in zip(spec.stores, outputs, strict=True):
            if registers is None:
                point.store(store)
            else:
                value = types.to_storage(point.value(store.expr), store.value.dtype)
                body.store(registers, i32(lane), value)
    for store, registers in zip(spec.stores, outputs, strict=True):
        if registers is not None:
            target = body.params[store.value.name]
            store_words(body, store.value.dtype, lanes, registers, target, start.index(store.address))
