"""Sums of products of two reads, through matrix multiplication. An optimisation of the interpreter, nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.interpret.reduction import ufunc_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Expr, Load
from tilewright.ir.ops import TensorOp

Array = npt.NDArray[Any]


@attrs.frozen
class Product:
    """Slots of the two factors of a sum of products, and the dtype that it is carried in."""

    left: int
    right: int
    dtype: str


def product_of(op: TensorOp) -> Product | None:
    """The factors, when the operator is a plain sum of products of two reads that only depend on the axes."""
    if op.combiner is None or ufunc_of(op.combiner) is not np.add or len(op.reads) != 2:
        return None
    body = op.body[0]
    if not isinstance(body, Apply) or body.op != "mul":
        return None
    slots = [_slot(x) for x in body.args]
    if None in slots or slots[0] == slots[1]:
        return None
    return Product(int(slots[0] or 0), int(slots[1] or 0), body.dtype)


def _slot(expr: Expr) -> int | None:
    """The slot of a load, or of one that is converted without loss."""
    if isinstance(expr, Apply) and expr.op == "cast":
        inner = expr.args[0]
        widened = dtypes.bits(expr.dtype) >= dtypes.bits(inner.dtype)
        return inner.slot if isinstance(inner, Load) and widened else None
    return expr.slot if isinstance(expr, Load) else None


def contract(left: Array, right: Array, dtype: str, reduce: Sequence[int], shape: Sequence[int]) -> Array:
    """Sum over the axes `reduce` of `left · right`.

    Args:
        left, right: one dimension per axis; extent 1 where the factor does not depend on the axis.
        shape: extents of all axes.

    Returns:
        one dimension per axis, extent 1 on the reduced ones.
    """
    # Products of float32 are exact in float64; the sum is rounded once.
    kind = dtypes.to_numpy("float64" if dtype == "float32" else dtype)
    rank = len(shape)
    has = [[shape[n] > 1 and x.shape[n] > 1 for n in range(rank)] for x in (left, right)]
    inner = [n for n in reduce if has[0][n] and has[1][n]]
    repeats = math.prod(shape[n] for n in reduce if not has[0][n] and not has[1][n])
    factors = []
    for side, x in enumerate((left, right)):
        alone = tuple(n for n in reduce if has[side][n] and not has[1 - side][n])
        x = x.astype(kind)
        factors.append(np.add.reduce(x, axis=alone, dtype=kind, keepdims=True) if alone else x)
    spatial = [n for n in range(rank) if n not in reduce]
    batch = [n for n in spatial if has[0][n] and has[1][n]]
    rows = [n for n in spatial if has[0][n] and not has[1][n]]
    columns = [n for n in spatial if has[1][n] and not has[0][n]]
    a = _matrix(factors[0], batch, rows, inner)
    b = _matrix(factors[1], batch, inner, columns)
    with np.errstate(all="ignore"):
        result = np.matmul(a, b)
        if repeats != 1:
            result = result * kind.type(repeats)
    result = result.reshape([shape[n] for n in (*batch, *rows, *columns)])
    order = [*batch, *rows, *columns]
    back = sorted(range(len(order)), key=lambda k: order[k])
    full = [shape[n] if n in order else 1 for n in range(rank)]
    with np.errstate(all="ignore"):
        return np.asarray(result.transpose(back).reshape(full)).astype(dtypes.to_numpy(dtype))


def _matrix(x: Array, batch: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> Array:
    order = [*batch, *rows, *columns]
    moved = x.transpose([*order, *(n for n in range(x.ndim) if n not in order)])
    sizes = [math.prod(x.shape[n] for n in part) for part in (batch, rows, columns)]
    return moved.reshape(sizes)
