"""Element-wise kernels and data movement: one thread per vector of neighbouring points."""

from __future__ import annotations

from contextlib import nullcontext

from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.neighbours import store_neighbours
from tilewright_backends.emit.gpu.points import decompose, point_at, points_in, whole
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.recipes.gpu.common import symbolic_spec


def emit(body: GpuBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    statements(body, symbolic_spec(spec), kernel.choice["vector"])


def statements(body: GpuBody, spec: FlatSpec, vector: int) -> None:
    """Statements of one task: `threads * vector` neighbouring points.

    Args:
        vector: points per thread along the innermost axis, which it divides.
    """
    total = points_in(spec.spatial)
    first = body.hold((body.task * body.threads + body.thread) * vector, "first")
    edge = not whole(total, body.threads * vector)
    with body.when(body.index(first < total)) if edge else nullcontext():
        at = decompose(first, spec.spatial, body)
        inner = spec.spatial[-1] if spec.spatial else None
        if inner is None or vector == 1:
            point = point_at(body, spec, at)
            final = point_at(body, spec, at, [point.value(x) for x in spec.body])
            for store in spec.stores:
                final.store(store)
            return
        assert whole(inner.extent, vector)
        store_neighbours(body, spec, at, inner, vector, lambda _, point: [point.value(x) for x in spec.body])
