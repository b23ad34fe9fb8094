"""`map`: element-wise kernels and data movement, one thread per vector of neighbouring points."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.polynomial import literal_factor
from tilewright.recipes import Match, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec, coefficient
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    counted,
    divides,
    most,
    on_gpus,
    operations,
    parameter,
    powers,
    symbolic_spec,
)
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "map"


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    spec = symbolic_spec(kernel)
    if spec.combiner is not None or spec.scatters:
        return None
    inner = literal_factor(spec.spatial[-1].extent) if spec.spatial else 1
    narrowest = min(dtypes.size_of(s.value.dtype) for s in spec.stores)
    widest = max(device.vector_bytes // narrowest, 1)
    parameters = (
        parameter("threads", (128, 256, 512), align=device.warp, role="x", level="block"),
        parameter("vector", [v for v in powers(1, widest) if inner % v == 0], role="x", level="register"),
    )
    threads, vector = (p.var for p in parameters)
    total = most(spec, spec.spatial)
    registers = const(24) + vector * (2 * len(spec.reads) + 2)
    work = operations(*spec.body, *(s.expr for s in spec.stores)) + len(spec.reads) + len(spec.stores)
    roles = {"x": tuple(x.name for x in spec.spatial)}
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=roles,
        extents={"x": total},
        parameters=parameters,
        constraints=(
            divides(vector, inner, "vectors do not cross the innermost axis"),
            divides(vector, widest, "vectors are 2, 4, … elements"),
            *block_limits(threads, registers, const(0), device),
        ),
        usage=Usage(tasks=ceil_div(total, threads * vector), threads=threads, registers=registers),
        work=Work(
            flops=const(total * work),
            traffic={"dram": const(memory_bytes(spec)), "l2": const(_l2_bytes(spec, total))},
            # Narrow accesses keep too few bytes in flight.
            efficiency=const(30) + vector * 4,
            serial=const(10) - vector,
        ),
        operands=operands_of(spec, roles),
        tiles={"register": {"x": vector}, "block": {"x": threads * vector}},
        count=ceil_div(counted(spec.spatial), threads * vector) if spec.symbols else None,
        detail=spec,
    )


def _l2_bytes(spec: FlatSpec, total: int) -> int:
    """Bytes through the second-level cache: a strided access moves whole sectors of 32 bytes."""
    found = 0
    inner = spec.spatial[-1].name if spec.spatial else ""
    accesses = [(x.address, x.value) for x in spec.reads] + [(x.address, x.value) for x in spec.stores]
    for address, value in accesses:
        step = coefficient(address, inner) if inner else 0
        size = dtypes.size_of(value.dtype)
        found += total * (size if step in (0, 1) else min(32, size * abs(step)) if step else 32)
    return found


CUDA, ROCM = on_gpus(NAME, match, 10)
