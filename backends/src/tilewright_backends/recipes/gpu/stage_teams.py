"""Which stages of `stages` have fewer points than a block has threads, so that teams of these share a reduction."""

from __future__ import annotations

import math

from tilewright.ir.expr import Const, variables
from tilewright.ir.ops import Axis
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec, coefficient
from tilewright_backends.recipes.gpu.common import points


def shareable(stage: KernelSpec) -> bool:
    """Whether several threads can share the reductions of a stage."""
    combiner = stage.combiner
    return combiner is not None and combiner.associative and combiner.commutative and points(stage.reduce) > 1


def lanes_of(stage: KernelSpec, total: int, threads: int) -> int:
    """Threads for each of a tile's points: a power of two, 1 where they are not shared."""
    lanes = 1
    if shareable(stage):
        while lanes < points(stage.reduce) and 2 * lanes * total <= threads:
            lanes *= 2
    return lanes


def lanes_along(spec: FlatSpec) -> bool:
    """Whether lanes of a point should be neighbours: what is read most of lies along the reduction in memory."""
    best, along = 0, True
    for access in spec.reads[: spec.body_reads]:
        moving = variables(access.address)
        read = math.prod(_count(x) for x in spec.axes if x.name in moving)
        if read > best:
            strides = {x.kind for x in spec.axes if coefficient(access.address, x.name) == 1 and _count(x) > 1}
            best, along = read, "spatial" not in strides
    return along


def _count(axis: Axis) -> int:
    return int(axis.extent.value) if isinstance(axis.extent, Const) else 1
