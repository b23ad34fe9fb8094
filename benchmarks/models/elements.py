"""How many distinct elements of a tensor some accesses touch, from their index expressions and guards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tilewright.interpret.evaluate import evaluate_all
from tilewright.ir.expr import Apply, Expr, loads, variables

POINTS = 1 << 23
"""Most points of a domain that are looked at one by one; beyond, every element of the dimensions counts."""
MARKS = 1 << 26
"""Most elements that are marked one by one."""

Extents = tuple[tuple[str, int], ...]
Image = tuple["Part", ...]


@dataclass(frozen=True)
class Reach:
    """One access, read or written: `index` into a tensor of a shape under a guard, over axes with extents."""

    index: tuple[Expr, ...]
    guard: Expr | None
    shape: tuple[int, ...]
    axes: Extents


@dataclass(frozen=True, eq=False)
class Part:
    """Dimensions whose indices depend on common axes, and which of their elements are touched; None: all."""

    dims: tuple[int, ...]
    touched: np.ndarray | None


def distinct(reaches: Iterable[Reach]) -> int:
    """The number of different elements that accesses to one tensor touch together.

    Exact but for three cases, in which it may be too large: indices that are data count as every element, at most one
    for each point of the domain; conditions on axes of several parts of the index, and dimensions of more than `POINTS`
    points, are not looked at.
    """
    given = tuple(dict.fromkeys(reaches))
    shape = given[0].shape
    images = [_image(x) for x in given]
    most = sum(math.prod(n for _, n in x.axes) for x in given)
    if any(all(part.touched is None for part in image) for image in images):
        return min(math.prod(shape), most)
    if len(images) == 1:
        return min(math.prod(_count(part, shape) for part in images[0]), most)
    whole = [d for d in range(len(shape)) if all(_covers(image, d) for image in images)]
    rest = [d for d in range(len(shape)) if d not in whole]
    if math.prod(shape[d] for d in rest) > MARKS:
        return min(math.prod(shape), most, sum(math.prod(_count(p, shape) for p in image) for image in images))
    marked = np.zeros([shape[d] for d in rest], np.bool_)
    for image in images:
        marked |= _mask(image, shape, rest)
    return min(int(np.count_nonzero(marked)) * math.prod(shape[d] for d in whole), most)


def _covers(image: Image, dim: int) -> bool:
    return any(dim in part.dims and part.touched is None for part in image)


def _count(part: Part, shape: Sequence[int]) -> int:
    return math.prod(shape[d] for d in part.dims) if part.touched is None else int(np.count_nonzero(part.touched))


def _mask(image: Image, shape: Sequence[int], rest: Sequence[int]) -> np.ndarray:
    """What an image touches of the dimensions `rest`; of the others it touches everything."""
    mask = np.ones([shape[d] for d in rest], np.bool_)
    for part in image:
        if part.touched is not None:
            order = [d for d in rest if d in part.dims]
            mask &= part.touched.reshape([shape[d] if d in order else 1 for d in rest])
    return mask


@lru_cache(maxsize=4096)
def _image(reach: Reach) -> Image:
    """The touched elements, as a product of parts."""
    extents = dict(reach.axes)
    conditions = [c for c in _conjuncts(reach.guard) if not loads(c)]
    free = [d for d, x in enumerate(reach.index) if loads(x)]
    parts = _linked({d: _axes(x, extents) for d, x in enumerate(reach.index) if d not in free}, conditions, extents)
    found = [Part((d,), None) for d in free]
    for dims, axes in parts:
        held = [c for c in conditions if _axes(c, extents) <= axes]
        found.extend(_touched(reach, dims, {x: extents[x] for x in sorted(axes)}, held))
    return tuple(found)


def _axes(expr: Expr, extents: Mapping[str, int]) -> frozenset[str]:
    return frozenset(x for x in variables(expr) if x in extents)


def _conjuncts(guard: Expr | None) -> list[Expr]:
    if guard is None:
        return []
    if isinstance(guard, Apply) and guard.op == "and":
        return [x for part in guard.args for x in _conjuncts(part)]
    return [guard]


def _linked(
    used: Mapping[int, frozenset[str]], conditions: Sequence[Expr], extents: Mapping[str, int]
) -> list[tuple[tuple[int, ...], frozenset[str]]]:
    """Dimensions that share axes, together; a condition links what it is about, while there are few points."""
    parts: list[tuple[tuple[int, ...], frozenset[str]]] = []
    for dim, axes in used.items():
        parts = _joined(parts, (dim,), axes)
    for condition in conditions:
        axes = _axes(condition, extents)
        together = axes.union(*(a for _, a in parts if a & axes))
        if math.prod(extents[x] for x in together) <= POINTS:
            parts = _joined(parts, (), axes)
    return parts


def _joined(
    parts: Sequence[tuple[tuple[int, ...], frozenset[str]]], dims: tuple[int, ...], axes: frozenset[str]
) -> list[tuple[tuple[int, ...], frozenset[str]]]:
    near = [p for p in parts if p[1] & axes]
    others = [p for p in parts if not p[1] & axes]
    if not near and not dims:
        return others
    return [*others, (tuple(sorted([*dims, *(d for p in near for d in p[0])])), axes.union(*(p[1] for p in near)))]


def _touched(reach: Reach, dims: tuple[int, ...], axes: Mapping[str, int], held: Sequence[Expr]) -> list[Part]:
    """The part of some dimensions, or parts of the single ones where there are too many points."""
    shape = [reach.shape[d] for d in dims]
    if math.prod(axes.values()) > POINTS or math.prod(shape) > MARKS:
        return [Part((d,), None) for d in dims]
    rank = len(axes)
    grid = {
        name: np.arange(size, dtype=np.int64).reshape([-1 if i == at else 1 for i in range(rank)])
        for at, (name, size) in enumerate(axes.items())
    }
    values = evaluate_all([*(reach.index[d] for d in dims), *held], grid)
    place, inside = np.zeros((), np.int64), np.ones((), np.bool_)
    for value, size in zip(values, shape, strict=False):
        place = place * size + value
        inside = inside & (value >= 0) & (value < size)
    for condition in values[len(dims) :]:
        inside = inside & condition
    place, inside = np.broadcast_arrays(place, inside)
    touched = np.zeros(math.prod(shape), np.bool_)
    touched[place[inside]] = True
    return [Part(dims, None if touched.all() else touched.reshape(shape))]
