"""What a kernel moves, as `tilewright.recipes.Operand`s: derived from the flat addresses, for every recipe alike."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, bounds_of
from tilewright.ir.expr import Expr, loads, variables
from tilewright.ir.ops import Value
from tilewright.recipes import Operand
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, FlatStore, coefficient

_LINE = 64
"""Bytes by which the layouts of an operand along different roles are compared."""


def operands_of(
    spec: FlatSpec,
    roles: Mapping[str, Sequence[str]],
    padding: int = 0,
    packed: Mapping[int, str] | None = None,
    windows: Container[int] = (),
) -> tuple[Operand, ...]:
    """The operands of a kernel whose axes play `roles` (role -> names of its axes, outermost first).

    Args:
        padding: elements left free behind each line of a staged tile.
        packed: reads that are stored in another order, with the role that lies innermost there.
        windows: reads whose elements only neighbouring points share.
    """
    packed = packed or {}
    bounds = spec.symbol_bounds
    extents = {x.name: bounds_of(x.extent, bounds).high for x in spec.axes}
    found: dict[tuple[Value, Expr | None, bool], Operand] = {}
    for slot, read in enumerate(spec.reads):
        names = _varying(spec, read.address, read.guard)
        outside = slot >= spec.body_reads and spec.combiner is not None
        made = _operand(read.value, read.address, names, roles, extents, bounds, outside, padding, packed.get(slot, ""))
        if slot in windows:
            touched = math.prod(extents[x] for x in names if x in extents)
            made = attrs.evolve(made, shared=max(touched // max(made.elements, 1), 1))
        found.setdefault((read.value, read.address, outside), made)
    for store in spec.stores:
        names = _varying(spec, store.address, store.guard)
        made = _operand(store.value, store.address, names, roles, extents, bounds, True, 0, "")
        found[store.value, None, True] = made
    return tuple(found.values())


def memory_bytes(spec: FlatSpec) -> int:
    """Bytes that a kernel moves at least: of each value as many elements as it has, or as its accesses can touch."""
    bounds = spec.symbol_bounds
    extents = {x.name: bounds_of(x.extent, bounds).high for x in spec.axes}
    touched: dict[Value, dict[Expr, int]] = {}
    accesses: tuple[FlatAccess | FlatStore, ...] = (*spec.reads, *spec.stores)
    for access in accesses:
        names = _varying(spec, access.address, access.guard)
        touched.setdefault(access.value, {})[access.address] = math.prod(extents[x] for x in names if x in extents)
    return sum(
        min(bounds_of(value.num_elements(), bounds).high, sum(each.values())) * dtypes.size_of(value.dtype)
        for value, each in touched.items()
    )


def _varying(spec: FlatSpec, address: Expr, guard: Expr | None) -> frozenset[str]:
    """Names of the axes that an access varies with, those behind indices from memory included."""
    names = set(variables(address, guard))
    for slot in loads(address, guard):
        names |= _varying(spec, spec.reads[slot].address, spec.reads[slot].guard)
    return frozenset(names)


def _operand(
    value: Value,
    address: Expr,
    names: frozenset[str],
    roles: Mapping[str, Sequence[str]],
    extents: Mapping[str, int],
    bounds: Bounds,
    outside: bool,
    padding: int,
    innermost: str,
) -> Operand:
    own = tuple(role for role, axes in roles.items() if names & set(axes))
    touched = math.prod(extents[x] for x in names if x in extents)
    held = bounds_of(value.num_elements(), bounds).high
    size = dtypes.size_of(value.dtype)
    along, stride, run = _nearest(address, names, {role: roles[role] for role in own}, extents, size)
    if innermost in own:
        along, stride, run = innermost, 1, math.prod(extents[x] for x in roles[innermost])
    return Operand(value.name, size, min(touched, held), own, along, stride, run, outside, padding)


def _nearest(
    address: Expr, names: frozenset[str], roles: Mapping[str, Sequence[str]], extents: Mapping[str, int], size: int
) -> tuple[str, int, int]:
    """The role along which whole lines hold the most points, the step between these, and how many follow each other."""
    best = ("", 0, 1)
    least = math.inf
    for role, axes in roles.items():
        inner = [x for x in axes if extents[x] > 1]
        step = abs(coefficient(address, inner[-1]) or 0) if inner and inner[-1] in names else 0
        if not step:
            continue
        run = 1
        for axis in reversed(inner):
            if abs(coefficient(address, axis) or 0) != step * run:
                break
            run *= extents[axis]
        bytes_per_point = math.ceil(((run - 1) * step + 1) * size / _LINE) * _LINE / run
        if bytes_per_point < least:
            best, least = (role, step, run), bytes_per_point
    return best
