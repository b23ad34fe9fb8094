"""Element-wise kernels and data movement: one thread per vector of neighbouring points."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from tilewright.ir.expr import Expr
from tilewright.ir.ops import Axis
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.points import (
    contiguous,
    decompose,
    load_words,
    point_at,
    points_in,
    store_words,
    varies,
    whole,
)
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.common import symbolic_spec


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    statements(body, symbolic_spec(spec), kernel.choice["vector"])


def statements(body: Body, spec: FlatSpec, vector: int) -> None:
    """Statements of one task: `threads * vector` neighbouring points.

    Args:
        vector: points per thread along the innermost axis, which it divides.
    """
    total = points_in(spec.spatial)
    first = body.hold((body.task * body.threads + body.thread) * vector, "first")
    edge = not whole(total, body.threads * vector)
    with body.when(body.index(first < total)) if edge else nullcontext():
        at = decompose(first, spec.spatial, body)
        if vector == 1:
            point = point_at(body, spec, at)
            states = [point.value(x) for x in spec.body]
            final = point_at(body, spec, at, states)
            for store in spec.stores:
                final.store(store)
            return
        inner = spec.spatial[-1]
        assert whole(inner.extent, vector)
        _vector(body, spec, at, inner, vector)


def _vector(body: Body, spec: FlatSpec, at: Mapping[str, Expr], inner: Axis, vector: int) -> None:
    start = point_at(body, spec, at)
    common: dict[int, Prim] = {}
    wide: dict[int, Prim] = {}
    for slot, access in enumerate(spec.reads):
        if not varies(spec, slot, inner.name):
            common[slot] = start.load(slot)
        elif contiguous(spec, access, inner, vector):
            source = body.params[access.value.name]
            wide[slot] = load_words(body, access.value.dtype, vector, source, start.index(access.address))
    outputs = [
        body.registers(types.storage(s.value.dtype), vector, "out") if contiguous(spec, s, inner, vector) else None
        for s in spec.stores
    ]
    for lane in range(vector):
        loaded = dict(common)
        for slot, registers in wide.items():
            loaded[slot] = types.from_storage(registers[lane], spec.reads[slot].value.dtype)
        here = {**at, inner.name: body.simplify(at[inner.name] + lane)}
        point = point_at(body, spec, here, (), loaded)
        states = [point.value(x) for x in spec.body]
        final = point_at(body, spec, here, states, loaded)
        for store, registers in zip(spec.stores, outputs, strict=True):
            if registers is None:
                final.store(store)
            else:
                value = types.to_storage(final.value(store.expr), store.value.dtype)
                body.store(registers, types.literal(lane, "int32"), value)
    for store, registers in zip(spec.stores, outputs, strict=True):
        if registers is not None:
            target = body.params[store.value.name]
            store_words(body, store.value.dtype, vector, registers, target, start.index(store.address))
