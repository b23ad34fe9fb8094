"""Points of a domain on a GPU: one thread, one point at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.ir import dtypes
from tilewright.ir.bounds import linear_terms, simplify
from tilewright.ir.expr import Const, Expr, Extent, Var, as_expr, as_extent, loads, maximum, number_of, variables
from tilewright.ir.ops import Axis
from tilewright.ir.polynomial import canonical, literal_factor
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, FlatStore
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim

_EARLY = 4
"""Values that are loaded early: each takes a register until it is used."""


def point_at(
    body: GpuBody,
    spec: FlatSpec,
    at: Mapping[str, Expr],
    states: Sequence[Prim] = (),
    loaded: Mapping[int, Prim] | None = None,
) -> Point:
    """The point where the axes have the values `at` and the states are `states`."""
    given = {f"s{i}": x for i, x in enumerate(states)}
    return Point(body, spec, body.params, at, body.semantics, given=given, loaded=loaded)


def early_reads(
    body: GpuBody, spec: FlatSpec, at: Mapping[str, Expr], known: Collection[int] = ()
) -> dict[int, Prim]:
    """What a reduction is finished with, loaded before it begins, by slot: the load is then over when it ends.

    Args:
        at: axes that the loads may depend on.
        known: slots that come from somewhere else.
    """
    point = point_at(body, spec, at)
    found: dict[int, Prim] = {}
    for slot, access in enumerate(spec.reads):
        steered = loads(access.address, access.guard)
        same = variables(access.address, access.guard) <= set(at)
        if slot not in known and same and not steered and len(found) < _EARLY:
            found[slot] = point.load(slot)
    return found


def both(a: Prim | None, b: Prim | None) -> Prim | None:
    """The conjunction of two conditions; None always holds."""
    if a is None or b is None:
        return b if a is None else a
    return tirx.And(a, b)


def size(axis: Axis) -> int:
    """The literal extent of an axis."""
    if not isinstance(axis.extent, Const):
        raise TypeError(f"axis {axis.name} has no literal extent: {axis.extent!r}")
    return int(axis.extent.value)


def count(axes: Sequence[Axis]) -> int:
    """Number of points of fused axes."""
    total = 1
    for axis in axes:
        total *= size(axis)
    return total


def points_in(axes: Sequence[Axis]) -> Extent:
    """Number of points of fused axes by the values of the symbols."""
    return as_extent(canonical(number_of(x.extent for x in axes)))


def whole(total: Extent, block: int) -> bool:
    """Whether blocks of a size cover a number of points exactly, whatever the values of the symbols."""
    return literal_factor(as_expr(total)) % block == 0


def decompose(at: Expr, axes: Sequence[Axis], body: GpuBody) -> dict[str, Expr]:
    """The axis values of point number `at` of fused axes, innermost last, each computed once."""
    found: dict[str, Expr] = {}
    rest = body.hold(at, "at")
    for position, axis in reversed(list(enumerate(axes))):
        if position == 0:
            found[axis.name] = rest
            break
        radix = axis.extent if isinstance(axis.extent, Const) else maximum(axis.extent, 1)
        found[axis.name] = body.hold(rest % radix, "at")
        rest = body.hold(rest // radix, "rest")
    return found


def varies(spec: FlatSpec, slot: int, axis: str) -> bool:
    """Whether a read sees another element when `axis` moves."""
    access = spec.reads[slot]
    if axis in variables(access.address, access.guard):
        return True
    return any(varies(spec, s, axis) for s in loads(access.address, access.guard))


def contiguous(spec: FlatSpec, access: FlatAccess | FlatStore, axis: Axis, lanes: int) -> bool:
    """Whether `lanes` neighbours along `axis` (from a multiple of `lanes`) are one aligned vector, always read."""
    if access.guard is not None or loads(access.address) or dtypes.size_of(access.value.dtype) * lanes % 4:
        return False
    if literal_factor(axis.extent) % lanes:
        return False
    for factor, term in linear_terms(simplify(access.address, spec.bounds())):
        if term == Var(axis.name):
            if factor != 1:
                return False
        elif axis.name in variables(term) or factor % lanes:
            return False
    return True


_WORDS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint32x2", 16: "uint32x4"}


def words(dtype: str, lanes: int) -> tuple[str, int]:
    """The word type that moves `lanes` elements of an IR dtype, and how many words that takes."""
    bytes_ = dtypes.size_of(dtype) * lanes
    wide = max(x for x in _WORDS if bytes_ % x == 0)
    return _WORDS[wide], bytes_ // wide


def load_words(body: GpuBody, dtype: str, lanes: int, source: Prim, address: Prim) -> Prim:
    """Registers holding `lanes` elements from `address` (a multiple of `lanes`) of a flat buffer."""
    registers = body.registers(types.storage(dtype), lanes, "vec")
    word, number = words(dtype, lanes)
    far, near = body.view(source, word, 1), body.view(registers, word, number)
    first = _word_index(address, lanes, number)
    for i in range(number):
        body.store(near, types.literal(i, "int32"), far[first + i])
    return registers


def store_words(body: GpuBody, dtype: str, lanes: int, registers: Prim, target: Prim, address: Prim) -> None:
    """Writes `lanes` elements in registers to `address` (a multiple of `lanes`) of a flat buffer."""
    word, number = words(dtype, lanes)
    far, near = body.view(target, word, 1), body.view(registers, word, number)
    first = _word_index(address, lanes, number)
    for i in range(number):
        body.store(far, first + i, near[i])


def in_vectors(address: Prim, lanes: int) -> Prim:
    """A number of elements, a multiple of `lanes` (a power of two), as a number of vectors.

    Addresses are not negative, which a division would have to assume that they may be.
    """
    return tir_op.shift_right(address, types.literal(lanes.bit_length() - 1, types.element(address)))


def _word_index(address: Prim, lanes: int, number: int) -> Prim:
    index = in_vectors(address, lanes)
    return index * number if number > 1 else index
