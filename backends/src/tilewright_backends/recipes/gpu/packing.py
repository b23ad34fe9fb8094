"""Constant operands of contractions in the order in which tiles are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.errors import InternalError
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Expr, Var, const, variables
from tilewright.ir.ops import Axis
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import extent, points

TILE, GROUP, STEP, POINT = "tile", "group", "step", "point"


def pack_operand(
    kernel: KernelSpec, slot: int, outer: Sequence[Axis], k: Sequence[Axis], block: int, step: int
) -> Packing:
    """The operand as [outer tile][k][point of the tile], padded with zeros to whole tiles and whole steps.

    Args:
        outer: fused axes of the operand's rows, merged ones as `lower.flat` names them.
        k: fused reduce axes.
        block: points of a tile.
        step: the reduction is padded to a multiple of this.
    """
    tiles = -(-points(outer) // block)
    padded = -(-points(k) // step) * step
    dims = ((TILE, tiles), (STEP, padded), (POINT, block))
    return _packing(kernel, slot, dims, (outer, Var(TILE) * block + Var(POINT)), (k, Var(STEP)))


def pack_pieces(
    kernel: KernelSpec,
    slot: int,
    outer: Sequence[Axis],
    k: Sequence[Axis],
    tiles: tuple[int, int],
    groups: tuple[int, int],
) -> Packing:
    """The operand as [outer tile][group of k][point of the tile][k in the group], padded with zeros.

    Args:
        outer, k: see `pack_operand`.
        tiles: number of outer tiles, and points of one.
        groups: number of groups, and reduction points of one.
    """
    dims = ((TILE, tiles[0]), (GROUP, groups[0]), (POINT, tiles[1]), (STEP, groups[1]))
    places = Var(TILE) * tiles[1] + Var(POINT), Var(GROUP) * groups[1] + Var(STEP)
    return _packing(kernel, slot, dims, (outer, places[0]), (k, places[1]))


def _packing(
    kernel: KernelSpec, slot: int, dims: tuple[tuple[str, int], ...], *sides: tuple[Sequence[Axis], Expr]
) -> Packing:
    """The packing whose fused axes have these values in terms of the dims."""
    at: dict[str, Expr] = {}
    for fused, number in sides:
        at |= _split(number, _originals(kernel, fused))
    access = kernel.reads[slot]
    axes: list[tuple[str, Expr]] = []
    for axis in kernel.axes:
        if axis.name not in variables(*access.index, access.guard):
            continue
        if axis.name not in at and axis.extent != const(1):
            raise InternalError(f"axis {axis.name} of a packed operand has no role.")
        axes.append((axis.name, at.get(axis.name, const(0))))
    return Packing(slot, dims, tuple(axes))


def _originals(kernel: KernelSpec, axes: Sequence[Axis]) -> list[Axis]:
    """The kernel's own axes behind fused ones, outermost first."""
    own = {x.name: x for x in kernel.axes}
    found: list[Axis] = []
    for axis in axes:
        rest = axis.name
        while rest:
            name = next((n for n in sorted(own, key=len, reverse=True) if rest == n or rest.startswith(n + ".")), None)
            if name is None:
                raise InternalError(f"axis {axis.name} is not made of the axes of kernel {kernel.name}.")
            found.append(own[name])
            rest = rest[len(name) + 1 :]
    return found


def _split(number: Expr, axes: Sequence[Axis]) -> dict[str, Expr]:
    """The axis values of point `number`; the outermost one runs beyond its extent in the padding."""
    found: dict[str, Expr] = {}
    for position, axis in reversed(list(enumerate(axes))):
        found[axis.name] = number % extent(axis) if position else number
        number = number // extent(axis)
    return found
