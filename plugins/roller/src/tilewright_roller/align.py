"""Aligned tile sizes (OSDI'22, section 3.2): what an axis may grow to.

Sizes are multiples of the execution unit (the recipe's own alignment: SIMD width, warp, shape of an instruction), fill
whole memory transactions along contiguous memory, and fit the tensor's own shape: at most ε of an axis is padding.
Where an awkward extent leaves too few sizes, ε is relaxed step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright.device import DeviceModel
from tilewright.ir.expr import variables
from tilewright.recipes import Match, Parameter, evaluate
from tilewright_roller.rtile import BLOCK, source_of

WASTE = (1 / 16, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The values of ε, in the order in which they are tried. The paper begins with 0; a little padding costs less than the
odd shapes that avoid it, which few warps divide.
"""
ENOUGH = 4
"""Sizes of an axis from which on ε is not relaxed further."""
_PER_OCTAVE = 2
_EACH = 8
"""Multiples of the alignment that are told apart; larger ones share half octaves."""
_DIVISORS_UP_TO = 1 << 20


def waste(extent: int, tile: int) -> float:
    """Padding over extent, when tiles of `tile` points cover `extent` points."""
    return (-(-extent // tile) * tile - extent) / extent if extent else 0.0


def ladder(match: Match, parameter: Parameter, device: DeviceModel) -> tuple[int, ...]:
    """The sizes to which a parameter may grow, ascending; those of the recipe where it cuts no axis."""
    level = parameter.level
    if not parameter.role or level not in match.tiles or parameter.role not in match.tiles[level]:
        return parameter.candidates
    extent = match.extents[parameter.role]
    pool = _alone(match, parameter, _pool(parameter, extent))
    tiles = _tiles(match, parameter, pool)
    pool, tiles = _reaching(pool, tiles, extent)
    whole = _whole_transactions(match, parameter, device, tiles)
    pairs = list(zip(pool, tiles, strict=True))
    usable = [pair for pair, good in zip(pairs, whole, strict=True) if good]
    if len(usable) < min(ENOUGH, len(pairs)):
        usable = pairs  # odd rows that no transaction divides
    for epsilon in WASTE:
        sizes = [(s, t) for s, t in usable if waste(extent, t) <= epsilon]
        if len(_thinned(parameter, extent, sizes)) >= min(ENOUGH, len(usable)):
            break
    least = min(usable, key=lambda x: (waste(extent, x[1]), x[0]))
    return _thinned(parameter, extent, sizes or [least])


def _pool(parameter: Parameter, extent: int) -> list[int]:
    """Every size worth a look: the recipe's, doubled and tripled steps, even shares and divisors of the extent."""
    align, low, high = parameter.align, parameter.candidates[0], parameter.candidates[-1]
    found = set(parameter.candidates)
    step = align
    while step <= high:
        found |= {step, 3 * step}
        step *= 2
    found |= {math.ceil(max(extent, 1) / n / align) * align for n in range(1, 65)}
    if extent <= _DIVISORS_UP_TO:
        small = np.arange(1, math.isqrt(max(extent, 1)) + 1)
        small = small[extent % small == 0]
        found |= {int(x) for x in (*small, *(extent // small))}
    return sorted(x for x in found if low <= x <= high and x % align == 0)


def _alone(match: Match, parameter: Parameter, sizes: list[int]) -> list[int]:
    """The sizes that meet the constraints on this parameter alone; all of them where none does."""
    columns = {parameter.name: np.asarray(sizes, np.int64)}
    good = np.ones(len(sizes), np.bool_)
    for constraint in match.constraints:
        if variables(constraint.left, constraint.right) == {parameter.name}:
            good &= evaluate(constraint.left, columns) <= evaluate(constraint.right, columns)
    return [s for s, fits in zip(sizes, good, strict=True) if fits] or sizes


def _tiles(match: Match, parameter: Parameter, sizes: Sequence[int]) -> list[int]:
    """Points of the tile for each size of the parameter, everything else at its least."""
    columns = {p.name: np.full(len(sizes), p.candidates[0], np.int64) for p in match.parameters}
    columns[parameter.name] = np.asarray(sizes, np.int64)
    found = evaluate(match.tiles[parameter.level][parameter.role], columns, len(sizes))
    return [max(int(x), 1) for x in found]


def _reaching(sizes: list[int], tiles: list[int], extent: int) -> tuple[list[int], list[int]]:
    """Up to the first size whose tile holds the whole axis."""
    last = next((i for i, t in enumerate(tiles) if t >= extent), len(tiles) - 1)
    return sizes[: last + 1], tiles[: last + 1]


def _whole_transactions(
    match: Match, parameter: Parameter, device: DeviceModel, tiles: Sequence[int]
) -> list[bool]:
    """Which tiles move whole transactions, or all there is, along the memory of each large operand that they cut."""
    if parameter.level not in (BLOCK, *(x.name for x in device.levels if x.name != "register")):
        return [True] * len(tiles)
    transaction = source_of(match, parameter.level, device).transaction
    most = max((x.elements * x.size for x in match.operands), default=0)
    large = [x for x in match.operands if 2 * x.elements * x.size >= most]
    cut = [x for x in large if x.along == parameter.role and x.stride == 1]
    return [all(t >= x.run or t * x.size % transaction == 0 for x in cut) for t in tiles]


def _thinned(parameter: Parameter, extent: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The smallest sizes, and the best one of every half octave above.

    That is the largest one that the recipe names, which may hold a whole row, then any that it names, then the
    roundest, then the one with the least padding.
    """
    kept: dict[int, tuple[tuple[bool, bool, int, float], int]] = {}
    for size, tile in sizes:
        steps = size // parameter.align
        bucket = steps if steps <= _EACH else _EACH + math.floor(_PER_OCTAVE * math.log2(size))
        named = size in parameter.candidates
        merit = (size == parameter.candidates[-1], named, size & -size, -waste(extent, tile))
        if bucket not in kept or merit > kept[bucket][0]:
            kept[bucket] = (merit, size)
    return tuple(sorted(size for _, size in kept.values()))
