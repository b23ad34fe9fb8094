"""rTiles: what a tile of a kernel occupies at a memory level, and what filling it moves (OSDI'22, section 3.1).

A tile is a number of points per role. Its shape at each level, its operands and their layout are what a recipe's match
says; nothing here knows a recipe. All of it is evaluated for many choices at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel, MemoryLevel
from tilewright.recipes import Columns, Match, Operand, evaluate

Array = npt.NDArray[np.float64]
REGISTER = "register"
BLOCK = "block"
"""The level of what a task works on without staging it."""


@attrs.frozen
class RTile:
    """A kernel's tile at one memory level.

    Args:
        level: "register", "shared", "l1", "l2", or "block".
        shape: points per role, those of extent 1 left out.
        padding: storage elements that the tile of an operand leaves free behind each line, by operand.
    """

    level: str
    shape: Mapping[str, int]
    padding: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.level} {'x'.join(f'{role}{points}' for role, points in self.shape.items())}"


def rtiles(match: Match, params: Mapping[str, int]) -> tuple[RTile, ...]:
    """The rTiles of a choice, nearest level first: the paper's rProgram."""
    columns = {name: np.asarray([size], np.int64) for name, size in params.items()}
    found = []
    for level in match.tiles:
        shape = {r: int(x[0]) for r, x in points(match, level, columns).items() if match.extents[r] > 1}
        padding = {x.name: x.padding for x in match.operands if x.padding and is_held(match, level, x)}
        found.append(RTile(level, shape, padding))
    return tuple(found)


def source_of(match: Match, level: str, device: DeviceModel) -> MemoryLevel:
    """The memory level that fills a tile.

    That of the next farther tile; for the farthest one the nearest level that all units share. What is not staged
    between registers and a block comes through the nearest cache.
    """
    levels = list(match.tiles)
    farther = levels[levels.index(level) + 1 :]
    if farther and farther[0] != BLOCK:
        return device.level(farther[0])
    caches = [x for x in reversed(device.levels) if x.name not in (REGISTER, "shared")]
    return caches[0] if farther else next(x for x in caches if x.shared_by_units)


def transaction_of(match: Match, level: str, device: DeviceModel) -> int:
    """Bytes of the smallest access that fills a tile: registers take single elements, other levels whole lines."""
    return 1 if level == REGISTER else source_of(match, level, device).transaction


def points(match: Match, level: str, columns: Columns) -> dict[str, Array]:
    """Points of the tile by role, no more than the role has."""
    rows = _rows(columns)
    tile = match.tiles[level]
    found = {}
    for role, extent in match.extents.items():
        size = evaluate(tile[role], columns, rows).astype(np.float64) if role in tile else np.ones(rows)
        found[role] = np.clip(size, 1, max(extent, 1))
    return found


def is_held(match: Match, level: str, operand: Operand) -> bool:
    """Whether a tile of the operand lies at a level. What is moved once per result passes the nearest one only."""
    return not operand.outside or level == next(iter(match.tiles))


def footprint(match: Match, level: str, columns: Columns) -> Array:
    """Bytes of a tile of every operand that lies at the level, storage padding included: the paper's F(T)."""
    tile = points(match, level, columns)
    total = np.zeros(_rows(columns))
    for operand in match.operands:
        if not is_held(match, level, operand):
            continue
        padded = _elements(operand, tile)
        if operand.padding:
            # Staged tiles have a line for each step of the reduction.
            padded = padded + operand.padding * _product(tile, [r for r in operand.roles if r in match.reduced])
        total = total + padded * operand.size
    return total


def traffic(match: Match, level: str, columns: Columns, transaction: int) -> Array:
    """Bytes that the whole kernel moves into and out of tiles of the level: the paper's Q(T).

    A tile is filled anew for every tile of the roles that an operand does not vary with. Lines of it are moved in whole
    transactions; tiles at an edge move only what is there.
    """
    tile = points(match, level, columns)
    total = np.zeros(_rows(columns))
    for operand in match.operands:
        others = [r for r in match.extents if r not in operand.roles and not (operand.outside and r in match.reduced)]
        repeats = np.ones(_rows(columns))
        for role in others:
            repeats = repeats * np.ceil(match.extents[role] / tile[role])
        for role in operand.roles:
            repeats = repeats * (match.extents[role] / tile[role])
        total = total + repeats * _elements(operand, tile) * _bytes_per_element(operand, tile, transaction)
    return total


def _elements(operand: Operand, tile: Mapping[str, Array]) -> Array:
    return np.minimum(_product(tile, operand.roles), operand.elements)


def _bytes_per_element(operand: Operand, tile: Mapping[str, Array], transaction: int) -> Array:
    if not operand.along:
        size = max(operand.size, transaction) if operand.roles else operand.size
        return np.full(_rows(tile), float(size))
    line = np.minimum(tile[operand.along], max(operand.run, 1))
    span = ((line - 1) * operand.stride + 1) * operand.size
    moved = np.ceil(span / transaction) * transaction
    return np.asarray(np.minimum(moved / line, max(transaction, operand.size)))


def _product(tile: Mapping[str, Array], roles: tuple[str, ...] | list[str]) -> Array:
    total = np.ones(_rows(tile))
    for role in roles:
        total = total * tile[role]
    return total


def _rows(columns: Mapping[str, npt.NDArray[np.generic]]) -> int:
    return len(next(iter(columns.values()))) if columns else 1
