"""Reshapes and transposes: operators that only rename where elements stand.

A reshape becomes axes of the common refinement of both row-major factorings, so that the index of either side is a
sum of axes with strides. `[b, s, h*d] -> [b, s, h, d]` has the axes b, s, h, d and reads `h*D + d`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from tilewright.errors import InputError, SymbolicError
from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.numbers import fixing, shown
from tilewright.ir.expr import Expr, Extent, as_expr, as_extent, const, number_of
from tilewright.ir.polynomial import canonical, exact_quotient

rule = Family()


@attrs.frozen
class Digit:
    """Part of a dimension's index: `(axis // divide % modulo) · stride`; no division for modulo 0."""

    axis: int
    stride: Extent
    divide: int = 1
    modulo: int = 0


@attrs.frozen
class Refinement:
    """Axes for moving elements between two shapes of one size in row-major order.

    Args:
        extents: the axes, outermost first.
        source, target: per dimension of either shape the digits of its index.
    """

    extents: tuple[Extent, ...]
    source: tuple[tuple[Digit, ...], ...]
    target: tuple[tuple[Digit, ...], ...]

    @property
    def exact(self) -> bool:
        """Whether every index is a sum of axes with strides, without division."""
        return all(d.modulo == 0 and d.divide == 1 for dim in (*self.source, *self.target) for d in dim)


def refine(source: Sequence[Extent], target: Sequence[Extent]) -> Refinement:
    """The common refinement of two factorings of one number of elements (more than 0).

    Dimensions are matched in blocks of equal size. Inside a block the strides of all dimensions must divide one
    another for the factors to exist; where they do not, the block becomes one axis with divisions in the index.

    Raises:
        SymbolicError: the strides of a block with symbolic extents do not divide one another.
    """
    extents: list[Extent] = []
    digits: tuple[list[list[Digit]], list[list[Digit]]] = ([[] for _ in source], [[] for _ in target])
    for dims in _blocks(source, target):
        sizes = [[(source, target)[side][d] for d in dims[side]] for side in (0, 1)]
        strides = [_strides(x) for x in sizes]
        total = _product(sizes[0])
        cuts = _chain({1, total, *strides[0], *strides[1]})
        if cuts is not None:
            first = len(extents)
            places = cuts[:-1][::-1]  # stride of each axis, outermost first
            extents.extend(_ratio(b, a) for a, b in zip(cuts[-2::-1], cuts[:0:-1], strict=True))
            for side in (0, 1):
                for d, size, stride in zip(dims[side], sizes[side], strides[side], strict=True):
                    inside = cuts[cuts.index(stride) : cuts.index(_product((stride, size)))]
                    digits[side][d] = [
                        Digit(first + n, _ratio(place, stride)) for n, place in enumerate(places) if place in inside
                    ]
        else:
            extents.append(total)
            for side in (0, 1):
                for d, size, stride in zip(dims[side], sizes[side], strides[side], strict=True):
                    digits[side][d] = [Digit(len(extents) - 1, 1, _number(stride), _number(size))]
    return Refinement(tuple(extents), *(tuple(tuple(x) for x in side) for side in digits))


def _product(extents: Sequence[Extent]) -> Extent:
    return as_extent(canonical(number_of(extents)))


def _divides(a: Extent, b: Extent) -> bool:
    """Whether `b` is a multiple of `a` for every value of the symbols."""
    if isinstance(a, int) and isinstance(b, int):
        return b % a == 0
    return exact_quotient(as_expr(b), as_expr(a)) is not None


def _ratio(a: Extent, b: Extent) -> Extent:
    """`a / b` of a multiple of `b`."""
    found = exact_quotient(as_expr(a), as_expr(b))
    assert found is not None
    return as_extent(found)


def _number(extent: Extent) -> int:
    if isinstance(extent, int):
        return extent
    raise SymbolicError(
        f"A stride is {shown(extent)}, which does not divide the others for every size.",
        f"Fix the dimension when compiling, for example {fixing(extent)}.",
    )


def _chain(strides: set[Extent]) -> list[Extent] | None:
    """The strides in the order in which each divides the next; None when there is no such order."""
    found: list[Extent] = []
    for stride in strides:
        place = next((n for n, other in enumerate(found) if _divides(stride, other)), len(found))
        found.insert(place, stride)
    return found if all(_divides(a, b) for a, b in itertools.pairwise(found)) else None


def _blocks(source: Sequence[Extent], target: Sequence[Extent]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions with equal products on both sides, without dimensions of extent 1.

    With symbols, products are compared by which divides the other.
    """
    left = [d for d, n in enumerate(source) if n != 1]
    right = [d for d, n in enumerate(target) if n != 1]
    blocks = []
    while left and right:
        dims = ([left.pop(0)], [right.pop(0)])
        products = [source[dims[0][0]], target[dims[1][0]]]
        while products[0] != products[1]:
            if right and (not left or not _smaller(products[0], products[1])):
                dims[1].append(right.pop(0))
                products[1] = _product((products[1], target[dims[1][-1]]))
            else:
                dims[0].append(left.pop(0))
                products[0] = _product((products[0], source[dims[0][-1]]))
        blocks.append(dims)
    return blocks


def _smaller(a: Extent, b: Extent) -> bool:
    """Which of two products to extend: the smaller one, or the one that divides the other."""
    return a < b if isinstance(a, int) and isinstance(b, int) else _divides(a, b)


def _strides(sizes: Sequence[Extent]) -> list[Extent]:
    return [_product(sizes[n + 1 :]) for n in range(len(sizes))]


def index_of(digits: Sequence[Sequence[Digit]], axes: Sequence[Expr]) -> tuple[Expr, ...]:
    """The index that the digits describe at a point."""
    found = []
    for dim in digits:
        total: Expr = as_expr(0)
        for digit in dim:
            term = axes[digit.axis]
            if digit.modulo:
                term = (term // digit.divide) % digit.modulo
            total = total + term * digit.stride
        found.append(total)
    return tuple(found)


def reshape(b: Builder, x: Tensor, shape: Sequence[Extent], name: str = "") -> Tensor:
    """`x` in another shape of the same number of elements, in row-major order."""
    if tuple(shape) == x.extents:
        return x
    if 0 in x.extents:
        return b.compute(x.dtype, shape, lambda *i: const(0, x.dtype), name)
    axes = refine(x.extents, shape)
    return b.domain(
        [(x.dtype, shape)],
        axes.extents,
        (),
        lambda *i: x[index_of(axes.source, i)],
        index=lambda *i: index_of(axes.target, i),
        name=name,
    )[0]


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(b: Builder, node: Node) -> Tensor:
    x, shape = node[0], node.extents()
    total = _product(x.extents)
    if _product(shape) != total:
        raise InputError(
            f"{node} gives {shown(total)} elements the shape [{', '.join(map(shown, shape))}].",
            "Repair the model, or fix the dimensions.",
        )
    return reshape(b, x, shape)


@rule("Transpose")
def _transpose(b: Builder, node: Node) -> Tensor:
    return transpose(b, node[0], node.attr("perm", tuple(range(node[0].rank))[::-1]))


def transpose(b: Builder, x: Tensor, order: Sequence[int], name: str = "") -> Tensor:
    """`out[i…] = x[i permuted]`, dimension k of the result being dimension `order[k]` of `x`."""
    moving = [d for d in order if x.extents[d] != 1]
    shape = [x.extents[d] for d in order]
    if moving == sorted(moving):
        return reshape(b, x, shape, name)

    def body(*i: Expr) -> Expr:
        index = [i[0]] * x.rank
        for here, there in enumerate(order):
            index[there] = i[here]
        return x[tuple(index)]

    return b.compute(x.dtype, shape, body, name)
