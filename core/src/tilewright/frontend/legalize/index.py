"""The built-in rules: the list of families."""

from __future__ import annotations

from functools import cache

from tilewright.frontend.legalize import (
    activations,
    convolution,
    einsum,
    elementwise,
    indexing,
    layout,
    linear_algebra,
    matmul,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resize,
    sampling,
    scans,
    selection,
    spectral,
    transposed,
)
from tilewright.frontend.legalize.table import Table

_FAMILIES = (
    elementwise.rule,
    activations.rule,
    matmul.rule,
    convolution.rule,
    pooling.rule,
    normalization.rule,
    reductions.rule,
    movement.rule,
    layout.rule,
    indexing.rule,
    selection.rule,
    scans.rule,
    einsum.rule,
    transposed.rule,
    quantization.rule,
    resize.rule,
    sampling.rule,
    spectral.rule,
    recurrent.rule,
    linear_algebra.rule,
)


@cache
def builtin_table() -> Table:
    """The table of everything that ships with the core. Do not add to it: extend a copy."""
    return Table(rule for family in _FAMILIES for rule in family.rules)
