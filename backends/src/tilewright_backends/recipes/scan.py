"""What the recipes for recurrences share: the operator over flat addresses."""

from __future__ import annotations

import attrs

from tilewright.ir.expr import Const, cast
from tilewright.ir.ops import ScanOp
from tilewright.views.kernel import KernelSpec, Store
from tilewright_backends.lower.flat import FlatSpec, flatten


def scan_spec(op: ScanOp) -> FlatSpec | None:
    """The operator as a specification, or None when it has symbolic extents.

    Its bodies are the initial states, then the steps in terms of `p0, p1, …`; its stores are the results. The scan
    axis stands among the reduce axes.
    """
    axes = (*op.axes, attrs.evolve(op.scan, kind="reduce"))
    stores = tuple(Store(w, cast(x, w.value.dtype)) for w, x in zip(op.writes, op.results, strict=True))
    spec = flatten(KernelSpec(op.name, axes, op.reads, len(op.reads), (*op.init, *op.step), None, stores))
    return spec if all(isinstance(x.extent, Const) for x in spec.axes) else None
