"""Loads and stores of neighbouring lanes: contiguous, strided, broadcast or gathered, with guards and masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from tvm import tirx

from tilewright.ir.expr import Expr, loads
from tilewright_backends.lower import types
from tilewright_backends.lower.index import is_index
from tilewright_backends.lower.lanes import LANE, at_lane
from tilewright_backends.lower.types import Prim, broadcast, lane, lanes_of, literal, with_lanes

if TYPE_CHECKING:
    from tilewright_backends.lower.point import Point

_SHUFFLED_STRIDES = (2, 3, 4)
"""Strides at which loading whole vectors and picking lanes beats one load per lane."""


def load_vector(
    point: Point, buffer: Prim, dtype: str, address: Expr, guard: Expr | None, fill: bool | int | float
) -> Prim:
    """The carried value of `buffer[address]`, a scalar when all lanes read the same element."""
    stride = point.lane_stride(address)
    guard_varies = guard is not None and point.varies(guard)
    if point.lanes == 1 or (stride == 0 and not guard_varies):
        return _load_scalar(point, buffer, dtype, address, guard, fill)
    condition = None if guard is None else point.index(guard)
    mask = conjunction(point.mask, condition, point.lanes)
    if stride == 1:
        return _load_contiguous(point, buffer, dtype, address, mask, guard is not None, fill)
    plain = guard is None or (not loads(guard) and is_index(guard, point.code.bounds))
    if stride in _SHUFFLED_STRIDES and plain:
        assert stride is not None
        return _load_strided(point, buffer, dtype, address, stride, guard, fill)
    return _load_gathered(point, buffer, dtype, address, mask, guard is not None, fill)


def store_vector(point: Point, buffer: Prim, address: Expr, guard: Expr | None, value: Prim) -> None:
    """`buffer[address] = value` (in its storage dtype) for the lanes that are there and meet the guard."""
    code = point.code
    stride = point.lane_stride(address)
    condition = None if guard is None else point.index(guard)
    if point.lanes == 1:
        store = code.storing(buffer, point.index(address), value)
        if condition is None:
            code.emit(store)
        else:
            code.emit(tirx.IfThenElse(condition, store, None))
        return
    value = broadcast(value, point.lanes)
    mask = conjunction(point.mask, condition, point.lanes)
    if stride == 1:
        index = _ramp(point, address)
        if mask is None:
            code.emit(tirx.BufferStore(buffer, value, [index]))
        else:
            code.evaluate(tirx.op.masked_store(buffer, value, index, mask))
        return
    index = code.bind(broadcast(point.index(address), point.lanes), "at")
    value = code.bind(value, "stored")
    mask = None if mask is None else code.bind(mask, "mask")
    for number in range(point.lanes):
        store = tirx.BufferStore(buffer, lane(value, number), [lane(index, number)])
        code.emit(store if mask is None else tirx.IfThenElse(lane(mask, number), store, None))


def conjunction(mask: Prim, condition: Prim, lanes: int) -> Prim:
    """Both conditions as a vector of `lanes`; None when there is neither."""
    if condition is None:
        return mask
    condition = broadcast(condition, lanes)
    return condition if mask is None else tirx.And(mask, condition)


def _fill(dtype: str, fill: bool | int | float, lanes: int) -> Prim:
    return literal(fill, types.carrier(dtype), lanes)


def _load_scalar(
    point: Point, buffer: Prim, dtype: str, address: Expr, guard: Expr | None, fill: bool | int | float
) -> Prim:
    loaded = point.code.loaded(buffer, point.index(address))
    if guard is None:
        return types.from_storage(loaded, dtype)
    condition = point.index(guard)
    if dtype in ("bfloat16", "bool"):
        bits = int(fill) if dtype == "bool" else _bfloat16_pattern(float(fill))
        stored = literal(bits, types.storage(dtype))
        return types.from_storage(tirx.if_then_else(condition, loaded, stored), dtype)
    return types.from_storage(tirx.if_then_else(condition, loaded, literal(fill, types.storage(dtype))), dtype)


def _bfloat16_pattern(value: float) -> int:
    bits = int(np.float32(value).view(np.uint32))
    return bits >> 16 | (0x40 if math.isnan(value) else 0)


def _ramp(point: Point, address: Expr) -> Prim:
    """The addresses of contiguous lanes, as TIR wants them for one vector access."""
    base = point.index(at_lane(address, 0))
    return tirx.Ramp(base, literal(1, types.element(base)), point.lanes)


def _load_contiguous(
    point: Point, buffer: Prim, dtype: str, address: Expr, mask: Prim, guarded: bool, fill: bool | int | float
) -> Prim:
    index = _ramp(point, address)
    if mask is None:
        return types.from_storage(tirx.BufferLoad(buffer, [index]), dtype)
    mask = point.code.bind(mask, "mask")
    loaded = tirx.op.masked_load(with_lanes(types.storage(dtype), point.lanes), buffer, index, mask)
    # Lanes that are masked off come back undefined, so they are always replaced.
    value = fill if guarded else 0
    empty = literal(0, types.storage(dtype), point.lanes)
    if dtype in ("bool", "bfloat16", "float16"):
        carried = types.from_storage(tirx.Select(mask, loaded, empty), dtype)
        return tirx.Select(mask, carried, _fill(dtype, value, point.lanes)) if value else carried
    return tirx.Select(mask, loaded, literal(value, types.storage(dtype), point.lanes))


def _load_strided(
    point: Point,
    buffer: Prim,
    dtype: str,
    address: Expr,
    stride: int,
    guard: Expr | None,
    fill: bool | int | float,
) -> Prim:
    """Loads whole vectors in which only every `stride`-th element is touched, then picks the lanes."""
    code, lanes = point.code, point.lanes
    start = code.bind(point.index(at_lane(address, 0)), "base")
    wide = types.element(start)
    parts: list[Prim] = []
    own_lane = code.env[LANE]
    for part in range(stride):
        element = tirx.Ramp(tirx.const(part * lanes, "int32"), tirx.const(1, "int32"), lanes)
        number = tirx.Div(element, literal(stride, "int32", lanes))
        wanted = tirx.EQ(tirx.Mod(element, literal(stride, "int32", lanes)), literal(0, "int32", lanes))
        code.env[LANE] = number
        mask = conjunction(wanted, None if guard is None else point.index(guard), lanes)
        code.env[LANE] = own_lane
        if point.mask is not None:
            spread = [tirx.const((part * lanes + i) // stride, "int32") for i in range(lanes)]
            mask = tirx.And(mask, tirx.Shuffle([point.mask], spread))
        mask = code.bind(mask, "mask")
        base = tirx.Add(start, tirx.const(part * lanes, wide))
        index = tirx.Ramp(base, literal(1, wide), lanes)
        loaded = tirx.op.masked_load(with_lanes(types.storage(dtype), lanes), buffer, index, mask)
        parts.append(code.bind(tirx.Select(mask, loaded, literal(0, types.storage(dtype), lanes)), "part"))
    picked_lanes = tirx.Shuffle(parts, [tirx.const(i * stride, "int32") for i in range(lanes)])
    value = types.from_storage(picked_lanes, dtype)
    if guard is None or not fill:
        return value
    inside = broadcast(point.index(guard), lanes)
    return tirx.Select(inside, value, _fill(dtype, fill, lanes))


def _load_gathered(
    point: Point, buffer: Prim, dtype: str, address: Expr, mask: Prim, guarded: bool, fill: bool | int | float
) -> Prim:
    """One load per lane. Lanes that are masked off read element 0, which every tensor with elements has."""
    index = broadcast(point.index(address), point.lanes)
    if mask is not None:
        mask = point.code.bind(mask, "mask")
        index = tirx.Select(mask, index, literal(0, types.element(index), lanes_of(index)))
    index = point.code.bind(index, "at")
    scalars = [tirx.BufferLoad(buffer, [lane(index, n)]) for n in range(point.lanes)]
    value = types.from_storage(types.gather_lanes(scalars), dtype)
    if mask is None or not guarded:
        return value
    return tirx.Select(mask, value, _fill(dtype, fill, lanes_of(value)))
