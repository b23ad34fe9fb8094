"""Emits `cpu.scatter`."""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatStore
from tilewright_backends.lower.lanes import at_lane
from tilewright_backends.lower.point import Point, combine
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.recipes.cpu.common import extent
from tilewright_backends.recipes.cpu.scatter import Region, Scatter, scatter_of

_COPY_BYTES = 64
"""Bytes that the copy of the base moves at once."""


def emit(kernel: Kernel, spec: KernelSpec, semantics: Semantics) -> Emitted:
    """The kernel's function."""
    scatter = scatter_of(spec)
    if scatter is None:
        raise InternalError(f"cpu.scatter does not take kernel {kernel.name}.")
    function = CpuFunction(kernel, semantics)
    _Emitter(function, scatter, kernel.choice["lanes"], kernel.choice["block"]).run()
    return function.finish()


class _Emitter:
    def __init__(self, function: CpuFunction, scatter: Scatter, lanes: int, block: int) -> None:
        self.function = function
        self.code = function.code
        self.scatter = scatter
        self.spec = scatter.spec
        self.lanes = lanes
        self.block = block
        self.start = self.code.simplify(function.task * block)

    def run(self) -> None:
        """The base of every result in this task's part, then the updates of its part of the shared axis."""
        for store, region in zip(self.spec.stores, self.scatter.regions, strict=True):
            if store.base is not None:
                self._copy(store, region)
        with ExitStack() as stack:
            at: dict[str, Expr] = {}
            for name in self.scatter.loops:
                start, count = self._range(name)
                at[name] = start + stack.enter_context(self.code.loop("i", count))
            if self.scatter.inner and self.lanes > 1:
                self._vectors(at)
                return
            if self.scatter.inner:
                start, count = self._range(self.scatter.inner)
                at[self.scatter.inner] = start + stack.enter_context(self.code.loop("j", count))
            self._update(at, 1)

    def _range(self, name: str) -> tuple[Expr, Expr]:
        """First point of an axis and number of points, in this task."""
        points = extent(self.spec, name)
        if name != self.scatter.shared:
            return const(0), const(points)
        count = minimum(const(points) - self.start, const(self.block))
        return self.start, self.code.simplify(count)

    def _copy(self, store: FlatStore, region: Region) -> None:
        """The elements of the base in this task's block of the shared dimension."""
        assert store.base is not None
        inner = math.prod(region.shape[region.dim + 1 :])
        size = region.shape[region.dim] if region.shape else 1
        run: Expr = const(size * inner)
        first: Expr = const(0)
        outer = math.prod(region.shape[: region.dim])
        if self.scatter.shared:
            run = self.code.simplify(minimum(const(size) - self.start, const(self.block)) * inner)
            first = self.start * inner
        source, target = self.function.buffers[store.base.name], self.function.buffers[store.value.name]
        width = _COPY_BYTES // dtypes.size_of(store.value.dtype)
        with self.code.loop("o", outer) as o:
            begin = self.code.simplify(o * (size * inner) + first)
            whole = self.code.simplify(run // width)
            with self.code.loop("v", whole) as v:
                base = self.code.index(self.code.simplify(begin + v * width))
                index = tirx.Ramp(base, types.literal(1, types.element(base)), width)
                self.code.emit(tirx.BufferStore(target, tirx.BufferLoad(source, [index]), [index]))
            with self.code.loop("e", self.code.simplify(run % width)) as e:
                place = self.code.index(self.code.simplify(begin + whole * width + e))
                self.code.emit(tirx.BufferStore(target, tirx.BufferLoad(source, [place]), [place]))

    def _vectors(self, at: dict[str, Expr]) -> None:
        """Whole vectors along the inner axis, then the points left over one by one."""
        name, lanes = self.scatter.inner, self.lanes
        start, count = self._range(name)
        whole = self.code.simplify(count // lanes)
        with self.code.loop("v", whole) as v:
            self._update(at | {name: start + v * lanes + self.function.lane(lanes)}, lanes)
        with self.code.loop("e", self.code.simplify(count % lanes)) as e:
            self._update(at | {name: start + whole * lanes + e}, 1)

    def _update(self, at: dict[str, Expr], lanes: int) -> None:
        """One point of the domain, or `lanes` neighbours that write different elements."""
        point = self.function.point(self.spec, at, lanes)
        point.give({f"s{i}": point.value(x) for i, x in enumerate(self.spec.body)})
        for store in self.spec.stores:
            self._store(point, store)

    def _store(self, point: Point, store: FlatStore) -> None:
        """Merges with what stands there, where the guard holds."""
        code, dtype = self.code, store.value.dtype
        value = code.bind(types.broadcast(point.value(store.expr), point.lanes))
        address = code.bind(point.index(at_lane(point.placed(store.address), 0)), "at")
        step = types.literal(1, types.element(address))
        index = address if point.lanes == 1 else tirx.Ramp(address, step, point.lanes)
        buffer = self.function.buffers[store.value.name]
        guard = tirx.const(True, "bool") if store.guard is None else point.index(store.guard)
        # Lanes that the guard leaves out may lie outside of the result.
        mask = code.bind(guard, "mask") if types.lanes_of(guard) > 1 else None
        with nullcontext() if mask is not None else code.when(guard):
            if store.update is not None:
                old = tirx.BufferLoad(buffer, [index])
                if mask is not None:
                    old = tirx.op.masked_load(types.with_lanes(types.storage(dtype), point.lanes), buffer, index, mask)
                held = code.bind(types.from_storage(old, dtype), "old")
                (value,) = combine(code, self.function.semantics, store.update, [held], [value])
            stored = types.to_storage(value, dtype)
            if mask is None:
                code.emit(tirx.BufferStore(buffer, stored, [index]))
            else:
                code.evaluate(tirx.op.masked_store(buffer, stored, index, mask))
