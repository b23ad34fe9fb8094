"""What a warp's load costs the caches: the sectors of 32 bytes that its addresses touch, counted on sampled warps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Apply, Const, Expr, Var, const, select, walk
from tilewright.ir.ops import Axis
from tilewright.recipes import evaluate
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, FlatStore

WARP = 32
SECTOR = 32
"""Bytes that move between the caches at a time."""
WAVEFRONT = 4
"""Sectors that the first-level cache moves at a time; an access takes at least this long."""
_SAMPLED = 16
_COUNTABLE = frozenset(["add", "sub", "mul", "floordiv", "floormod", "min", "max", "neg"])

Numbers = npt.NDArray[np.int64]


def sampled(total: int) -> Numbers:
    """First members of warps spread over a number of threads."""
    warps = max(-(-total // WARP), 1)
    return np.unique(np.linspace(0, warps - 1, min(warps, _SAMPLED)).astype(np.int64)) * WARP


def digits(spec: FlatSpec, axes: Sequence[Axis], numbers: Numbers) -> dict[str, Numbers]:
    """The axes' values at numbers of fused points, the last point's where a number is too large."""
    found: dict[str, Numbers] = {}
    extents = [max(bounds_of(x.extent, spec.symbol_bounds).high, 1) for x in axes]
    rest = np.minimum(numbers, int(np.prod(extents, dtype=np.float64)) - 1)
    for axis, extent in reversed(list(zip(axes, extents, strict=True))):
        found[axis.name] = rest % extent
        rest = rest // extent
    return found


def touched(spec: FlatSpec, access: FlatAccess | FlatStore, at: Mapping[str, Numbers]) -> float:
    """Sectors that a warp touches on average.

    Args:
        at: value of every axis, one row for each warp and one column for each of its threads.
    """
    rows, columns = next(iter(at.values())).shape if at else (1, 1)
    if not _countable(access.address):
        return float(columns)
    given = {name: x.reshape(-1) for name, x in at.items()}
    given |= {x.name: np.full(rows * columns, x.interval.high) for x in spec.symbols}
    places = evaluate(access.address, given, rows * columns) * dtypes.size_of(access.value.dtype) // SECTOR
    ordered = np.sort(places.reshape(rows, columns), axis=1)
    return float(1 + np.mean(np.count_nonzero(np.diff(ordered, axis=1), axis=1)))


def delivered(accesses: float, sectors: float) -> int:
    """Bytes that accesses of warps cost the first-level cache, of the level "shared".

    They get three quarters of its bandwidth (an H200, 25 loads of one word per output that hit: 150 us for 115).
    """
    return round(accesses * max(sectors, WAVEFRONT) * SECTOR * 4 / 3)


def _countable(address: Expr) -> bool:
    """Whether an address is arithmetic of axes alone."""
    return all(
        isinstance(x, Const | Var) or (isinstance(x, Apply) and x.op in _COUNTABLE) for x in walk(address)
    )


def by_step(key: Expr, values: Mapping[int, int]) -> Expr:
    """The value of the largest key of `values` that is not larger than `key`, as a formula."""
    steps = sorted(values)
    found: Expr = const(values[steps[0]])
    for step in steps[1:]:
        found = select(key < step, found, const(values[step]))
    return found
