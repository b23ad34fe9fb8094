"""Kernel specifications evaluated with NumPy, at all points at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.interpret.evaluate import evaluate
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr
from tilewright.ir.ops import Access
from tilewright.views.kernel import KernelSpec

Arrays = Mapping[str, Any]


def read(access: Access, values: Arrays, env: Arrays, loads: list[Any]) -> Any:
    """The elements that an access gives at every point."""
    data = values[access.value.name]
    index = [np.asarray(evaluate(x, env, loads)) for x in access.index]
    clipped = tuple(np.clip(x, 0, n - 1) for x, n in zip(index, data.shape, strict=True))
    found = data[clipped] if clipped else data
    if access.guard is None:
        for raw, kept in zip(index, clipped, strict=True):
            assert (raw == kept).all(), f"unguarded read of {access.value.name} is out of range"
        return found
    assert access.fill is not None
    return np.where(evaluate(access.guard, env, loads), found, np.asarray(access.fill.value, data.dtype))


def run(spec: KernelSpec, values: Arrays) -> dict[str, Any]:
    """What the kernel stores, by value name; what it does not store is NaN or -1."""
    extents = [int(x.extent.value) for x in spec.axes]  # type: ignore[attr-defined]
    grid = np.ix_(*(np.arange(n) for n in extents)) if extents else ()
    env: dict[str, Any] = {x.name: g for x, g in zip(spec.axes, grid, strict=True)}
    loads: list[Any] = []
    for access in spec.reads[: spec.body_reads]:
        loads.append(read(access, values, env, loads))
    states = [np.broadcast_to(evaluate(x, env, loads), extents) for x in spec.body]
    spatial = len(spec.spatial)
    if spec.combiner is not None:
        axes = tuple(range(spatial, len(extents)))
        reducer = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}[spec.combiner.name]
        states = [reducer(states[0], axis=axes)]
    env = {x.name: g.reshape(g.shape[:spatial]) for x, g in zip(spec.spatial, grid[:spatial], strict=True)}
    env |= {f"s{i}": x.astype(dtypes.to_numpy(spec.body[i].dtype)) for i, x in enumerate(states)}
    loads = loads[: spec.body_reads]
    reduced = [x.reshape(x.shape[:spatial]) if x.size == np.prod(x.shape[:spatial]) else x for x in loads]
    for access in spec.reads[spec.body_reads :]:
        reduced.append(read(access, values, env, reduced))
    result: dict[str, Any] = {}
    for store in spec.stores:
        value = store.write.value
        target = np.full(
            value.static_shape(), np.nan if dtypes.is_float(value.dtype) else -1, dtypes.to_numpy(value.dtype)
        )

        def at(expr: Expr) -> Any:
            return np.broadcast_to(evaluate(expr, env, reduced), extents[:spatial])

        target[tuple(at(x) for x in store.write.index)] = at(store.expr)
        result[value.name] = target
    return result
