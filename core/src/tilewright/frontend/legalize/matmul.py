"""MatMul and Gemm."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Extent, cast

rule = Family()


Convert = Callable[[Expr, tuple[Expr, ...]], Expr]


def batched_product(b: Builder, x: Tensor, y: Tensor, dtype: str, name: str = "") -> Tensor:
    """NumPy's `matmul` of two tensors of rank 1 or more, accumulated in `dtypes.accumulator`, stored as `dtype`."""
    return batched_sum(b, x, y, dtype, lambda v, i: wide(v), lambda v, i: wide(v), name)


def batched_sum(b: Builder, x: Tensor, y: Tensor, dtype: str, of_x: Convert, of_y: Convert, name: str = "") -> Tensor:
    """`matmul` of two tensors whose elements are first converted; the converters get the element and its index."""
    left = (1, *x.extents) if x.rank == 1 else x.extents
    right = (*y.extents, 1) if y.rank == 1 else y.extents
    rank = max(len(left), len(right)) - 2
    batch: list[Extent] = []
    for d in range(rank):
        sizes = [shape[d - rank - 2] for shape in (left, right) if len(shape) - 2 >= rank - d]
        batch.append(b.same(*([n for n in sizes if n != 1] or [1])) if 0 not in sizes else 0)
    depth = b.same(left[-1], right[-2])
    rows = () if x.rank == 1 else (left[-2],)
    columns = () if y.rank == 1 else (right[-1],)

    def operand(t: Tensor, convert: Convert, outer: tuple[Expr, ...], inner: tuple[Expr, ...]) -> Expr:
        lead = t.rank - len(inner)
        used = outer[len(outer) - lead :] if lead else ()
        index = tuple(i if extent != 1 else i * 0 for extent, i in zip(t.extents[:lead], used, strict=True))
        return convert(t[(*index, *inner)], (*index, *inner))

    def body(*i: Expr) -> Expr:
        outer, k = i[:rank], i[-1]
        row = i[rank : rank + len(rows)]
        column = i[rank + len(rows) : -1]
        return operand(x, of_x, outer, (*row, k)) * operand(y, of_y, outer, (k, *column))

    return b.reduce(dtype, (*batch, *rows, *columns), (depth,), "sum", body, name)


@rule("MatMul")
def _matmul(b: Builder, node: Node) -> Tensor:
    return batched_product(b, node[0], node[1], node.out().dtype)


@rule("Gemm")
def _gemm(b: Builder, node: Node) -> Tensor:
    x, y, bias = node[0], node[1], node.get(2)
    out = node.out()
    rows, columns = out.extents
    across, down = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    if beta == 0:
        bias = None
    plain = bias is None and alpha == 1
    carried = dtypes.accumulator(out.dtype)
    if not plain and not dtypes.is_float(carried) and (alpha != 1 or beta != 1):
        carried = "float64"

    def body(i: Expr, j: Expr, k: Expr) -> Expr:
        return wide(x[k, i] if across else x[i, k]) * wide(y[j, k] if down else y[k, j])

    depth = b.same(x.extents[0 if across else 1], y.extents[1 if down else 0])
    product = b.reduce(
        out.dtype if plain else dtypes.accumulator(out.dtype),
        out.extents,
        (depth,),
        "sum",
        body,
        "" if plain else "product",
    )
    if plain:
        return product

    def finish(*i: Expr) -> Expr:
        total = cast(product[i], carried)
        if alpha != 1:
            total = total * alpha
        if bias is not None:
            added = cast(bias.at(i), carried)
            total = total + (added if beta == 1 else added * beta)
        return total if dtypes.is_float(out.dtype) else cast(total, out.dtype)

    return b.compute(out.dtype, (rows, columns), finish)
