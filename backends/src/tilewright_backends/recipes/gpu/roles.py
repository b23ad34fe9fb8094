"""Contractions as the CUDA recipes see them: columns run along the memory of the result."""

from __future__ import annotations

from tilewright.ir.ops import Axis
from tilewright_backends.lower.flat import FlatSpec, coefficient
from tilewright_backends.recipes.contraction import Contraction, contraction_of


def roles_of(spec: FlatSpec) -> Contraction | None:
    """The roles of a kernel's axes, columns along the result's memory; None when it is no contraction for them."""
    found = contraction_of(spec)
    if found is None or any(x.name not in found.rows.axes | found.columns.axes for x in spec.spatial):
        return None
    along = next((x for x in reversed(spec.spatial) if x not in found.batch), None)
    return found.swapped() if along in found.m else found


def stride(spec: FlatSpec, slot: int, axis: Axis | None) -> int | None:
    """Elements between neighbours along `axis` in a read; None when the address is not linear in it."""
    return None if axis is None else coefficient(spec.reads[slot].address, axis.name)
