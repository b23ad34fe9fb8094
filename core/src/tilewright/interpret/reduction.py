"""Merging the states of a reduction over whole arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.interpret.evaluate import evaluate_all
from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Expr, Var, apply
from tilewright.ir.ops import Combiner

Array = npt.NDArray[Any]

UFUNCS: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.logical_and,
    "or": np.logical_or,
}


def ufunc_of(how: Combiner) -> np.ufunc | None:
    """The NumPy function that a combiner of one state is, if it is one."""
    if len(how.combine) != 1:
        return None
    merged: Expr = how.combine[0]
    if isinstance(merged, Apply) and merged.op in UFUNCS:
        left, right = Var("a0", how.dtypes[0]), Var("b0", how.dtypes[0])
        if merged == apply(merged.op, left, right):
            return UFUNCS[merged.op]
    return None


def reduce_states(how: Combiner, states: Sequence[Array], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """The states of every point merged over `axes`, in the order of the domain; the axes stay with extent 1.

    Sums and products of float32 are carried in float64 and rounded once.
    """
    known = ufunc_of(how)
    if known is not None:
        dtype = dtypes.to_numpy(how.dtypes[0])
        carried = np.dtype(np.float64) if how.dtypes[0] == "float32" and known in (np.add, np.multiply) else dtype
        if known in (np.logical_and, np.logical_or):
            return (np.asarray(known.reduce(states[0], axis=axes, keepdims=True)),)
        start = np.asarray(how.identity[0].value, carried)
        with np.errstate(all="ignore"):
            merged = known.reduce(states[0], axis=axes, dtype=carried, keepdims=True, initial=start)
            return (np.asarray(merged).astype(dtype),)
    rank = states[0].ndim
    kept = [n for n in range(rank) if n not in axes]
    flat = []
    for x in states:
        moved = x.transpose([*kept, *axes])
        flat.append(moved.reshape(*moved.shape[: len(kept)], math.prod(moved.shape[len(kept) :])))
    if flat[0].shape[-1] == 0:
        shape = (*flat[0].shape[:-1], 1)
        flat = [np.full(shape, x.value, dtypes.to_numpy(x.dtype)) for x in how.identity]
    while flat[0].shape[-1] > 1:
        even = flat[0].shape[-1] // 2 * 2
        pairs = merge(how, [x[..., 0:even:2] for x in flat], [x[..., 1:even:2] for x in flat])
        flat = [np.concatenate((new, old[..., even:]), -1) for new, old in zip(pairs, flat, strict=True)]
    shape = tuple(1 if n in axes else states[0].shape[n] for n in range(rank))
    return tuple(x.reshape(shape) for x in flat)


def merge(how: Combiner, earlier: Sequence[Array], later: Sequence[Array]) -> tuple[Array, ...]:
    """The combiner applied to two tuples of states."""
    env = {how.left(n).name: x for n, x in enumerate(earlier)} | {how.right(n).name: x for n, x in enumerate(later)}
    return evaluate_all(how.combine, env)
