"""Gathers and scatters: operators whose places come from a tensor of indices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright.errors import InputError
from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.numbers import fixing, shown
from tilewright.ir.expr import Const, Expr, Extent, as_expr, cast, const, eq, select
from tilewright.ir.ops import Combiner, combiner

rule = Family()


def place(node: Node, indices: Tensor, at: Sequence[Expr | int], extent: Extent) -> Expr:
    """The element of `indices` as a position in a dimension; negative ones count from the end.

    Raises:
        InputError: an index that is known now lies outside of the dimension, for some of its sizes.
    """
    _check(node, indices, at, extent)
    found = cast(indices[tuple(at)], "int64")
    if isinstance(found, Const) and isinstance(extent, int):
        return as_expr(int(found.value) % extent)
    if isinstance(found, Const):
        return found if found.value >= 0 else found + extent
    if indices.data is not None and (indices.data.size == 0 or int(indices.data.min()) >= 0):
        return found
    return select(found < 0, found + extent, found)


def _check(node: Node, indices: Tensor, at: Sequence[Expr | int], extent: Extent) -> None:
    size = indices.fewest(extent)
    if extent == 0 and 0 not in indices.extents:
        raise InputError(f"{node} has indices for a dimension without elements.", "Repair the model.")
    if indices.data is None:
        return
    used = np.asarray(indices.data)[tuple(slice(None) if isinstance(x, Expr) else x for x in at)]
    wrong = used[(used < -size) | (used >= size)]
    if wrong.size and isinstance(extent, Expr):
        raise node.unsupported(
            f"has the index {int(wrong.flat[0])}, which lies outside of a dimension of {shown(extent)} elements when "
            f"these are {size}.",
            f"Narrow the range of the dimension, or fix it, for example {fixing(extent)}.",
        )
    if wrong.size:
        raise InputError(
            f"{node} has the index {int(wrong.flat[0])}, which lies outside of a dimension of {extent} elements.",
            "Repair the model.",
        )


@rule("Gather")
def _gather(b: Builder, node: Node) -> Tensor:
    x, indices, out = node[0], node[1], node.out()
    axis = node.axis(x.rank, 0)

    def body(*i: Expr) -> Expr:
        at = place(node, indices, i[axis : axis + indices.rank], x.extents[axis])
        return x[(*i[:axis], at, *i[axis + indices.rank :])]

    return b.compute(x.dtype, out.extents, body)


@rule("GatherElements")
def _gather_elements(b: Builder, node: Node) -> Tensor:
    x, indices = node[0], node[1]
    axis = node.axis(x.rank, 0)
    return b.compute(
        x.dtype, indices.extents, lambda *i: x[(*i[:axis], place(node, indices, i, x.extents[axis]), *i[axis + 1 :])]
    )


@rule("GatherND")
def _gather_nd(b: Builder, node: Node) -> Tensor:
    x, indices = node[0], node[1]
    batch, depth = int(node.attr("batch_dims", 0)), node.fixed(indices, -1, "coordinates")

    def body(*i: Expr) -> Expr:
        outer = i[: indices.rank - 1]
        where = [place(node, indices, (*outer, n), x.extents[batch + n]) for n in range(depth)]
        return x[(*outer[:batch], *where, *i[indices.rank - 1 :])]

    return b.compute(x.dtype, node.extents(), body)


def _merge(node: Node, dtype: str) -> Combiner | None:
    """How an update merges with what is there."""
    match node.attr("reduction", "none"):
        case "none":
            return None
        case "add":
            return combiner("sum", dtype)
        case "mul":
            return combiner("prod", dtype)
        case "max":
            return combiner("max", dtype)
        case "min":
            return combiner("min", dtype)
        case other:
            raise node.unsupported(f"merges by {other!r}.", "Use none, add, mul, max or min.")


@rule("ScatterElements", "Scatter")
def _scatter_elements(b: Builder, node: Node) -> Tensor:
    x, indices, updates = node[0], node[1], node[2]
    axis = node.axis(x.rank, 0)
    return b.domain(
        [(x.dtype, x.shape)],
        indices.shape,
        (),
        lambda *i: updates[i],
        index=lambda *i: (*i[:axis], place(node, indices, i, x.shape[axis]), *i[axis + 1 :]),
        base=x,
        update=_merge(node, x.dtype),
    )[0]


@rule("ScatterND")
def _scatter_nd(b: Builder, node: Node) -> Tensor:
    x, indices, updates = node[0], node[1], node[2]
    depth, outer = node.fixed(indices, -1, "coordinates"), indices.rank - 1

    def target(*i: Expr) -> list[Expr]:
        return [*(place(node, indices, (*i[:outer], n), x.shape[n]) for n in range(depth)), *i[outer:]]

    return b.domain(
        [(x.dtype, x.shape)],
        updates.shape,
        (),
        lambda *i: updates[i],
        index=target,
        base=x,
        update=_merge(node, x.dtype),
    )[0]


@rule("TensorScatter")
def _tensor_scatter(b: Builder, node: Node) -> Tensor:
    cache, update, starts = node[0], node[1], node.get(2)
    axis = node.axis(cache.rank, -2)
    extent, circular = cache.shape[axis], node.attr("mode", "linear") == "circular"

    def target(*i: Expr) -> tuple[Expr, ...]:
        at = i[axis] + (as_expr(0) if starts is None else cast(starts[i[0]], "int64"))
        return (*i[:axis], at % extent if circular else at, *i[axis + 1 :])

    return b.domain([(cache.dtype, cache.shape)], update.shape, (), lambda *i: update[i], index=target, base=cache)[0]


@rule("OneHot")
def _one_hot(b: Builder, node: Node) -> Tensor:
    indices, values, out = node[0], node[2], node.out()
    depth = int(np.asarray(node.constant(1, "depth")).reshape(-1)[0])
    axis = node.axis(indices.rank + 1, -1)

    def body(*i: Expr) -> Expr:
        found = cast(indices[(*i[:axis], *i[axis + 1 :])], "int64")
        found = select(found < 0, found + depth, found)
        return select(eq(found, i[axis]), values[1], values[0])

    return b.compute(out.dtype, out.extents, body)


@rule("ReverseSequence")
def _reverse_sequence(b: Builder, node: Node) -> Tensor:
    x, lengths = node[0], node[1]
    batch, time = int(node.attr("batch_axis", 1)), int(node.attr("time_axis", 0))

    def body(*i: Expr) -> Expr:
        length = cast(lengths[i[batch]], "int64")
        at = select(i[time] < length, length - 1 - i[time], i[time])
        return x[tuple(at if d == time else here for d, here in enumerate(i))]

    return b.compute(x.dtype, x.extents, body)


@rule("Compress")
def _compress(b: Builder, node: Node) -> Tensor:
    x, axis = node[0], node.attr("axis")
    kept = np.nonzero(np.asarray(node.constant(1, "condition")))[0].astype(np.int64)
    table = b.constant(kept, "kept")
    if axis is not None:
        axis = node.normal_axis(int(axis), x.rank)
        shape = [kept.size if d == axis else n for d, n in enumerate(x.shape)]
        extent = x.shape[axis]
        return b.compute(
            x.dtype, shape, lambda *i: x[(*i[:axis], place(node, table, (i[axis],), extent), *i[axis + 1 :])]
        )
    strides = [math.prod(x.shape[d + 1 :]) for d in range(x.rank)]

    def body(i: Expr) -> Expr:
        at = place(node, table, (i,), x.size)
        return x[tuple(at // s % n for s, n in zip(strides, x.shape, strict=True))]

    return b.compute(x.dtype, [kept.size], body)


@rule("MaxUnpool")
def _max_unpool(b: Builder, node: Node) -> Tensor:
    x, indices, out = node[0], node[1], node.out()
    shape = out.extents
    zeros = b.compute(x.dtype, shape, lambda *i: const(0, x.dtype), "zeros")
    # The indices count in the tensor that the pool of this window would have had as its input.
    kernel = node.attr("kernel_shape")
    strides = node.attr("strides", (1,) * len(kernel))
    pads = node.attr("pads", (0,) * (2 * len(kernel)))
    rank = len(kernel)
    counted = shape
    if node.get(2) is not None:
        counted = (*x.shape[:2], *(
            (n - 1) * strides[d] - pads[d] - pads[rank + d] + kernel[d] for d, n in enumerate(x.shape[2:])
        ))  # fmt: skip
    steps = [math.prod(counted[d + 1 :]) for d in range(x.rank)]

    def target(*i: Expr) -> list[Expr]:
        at = cast(indices[i], "int64")
        return [at // s % n for s, n in zip(steps, counted, strict=True)]

    return b.domain([(x.dtype, shape)], x.shape, (), lambda *i: x[i], index=target, base=zeros)[0]
