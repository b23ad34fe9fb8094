"""Rows that trips collect, put together without the loop's own stacking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.frontend.legalize.builder import Tensor
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, as_expr, const, eq, select
from tilewright.ir.ops import Value
from tilewright_grinder.editor import Editor


def stacked(rows: Sequence[Value], like: Value, editor: Editor) -> Value:
    """The rows along a new first dimension, by one operator whose reads are guarded by their places.

    Args:
        like: has the dtype of the result, and its shape behind the first dimension.
    """
    if not rows:
        data = np.zeros((0, *like.static_shape()[1:]), dtypes.to_numpy(like.dtype))
        return editor.builder.constant(data, "rows").value
    return joined(None, 0, rows, like, editor)


def joined(first: Value | None, group: int, rest: Sequence[Value], like: Value, editor: Editor) -> Value:
    """Rows in groups of `group`, as `first[group number, number in the group, …]`, and the rest one by one."""
    start = 0 if first is None else first.static_shape()[0] * group
    parts = [editor.tensor(x) for x in rest]

    def body(i: Expr, *at: Expr) -> Expr:
        found: Expr | None = None
        for n, x in reversed(list(enumerate(parts, start))):
            found = _row(x, i, n, start + len(parts), at, found)
        if first is None:
            assert found is not None
            return found
        inside = as_expr(i) < start
        whole = editor.tensor(first).guarded(inside if parts else None, (i // group, i % group, *at))
        return whole if found is None else select(inside, whole, found)

    shape = (start + len(parts), *like.extents[1:])
    return editor.builder.compute(like.dtype, shape, body).value


def _row(x: Tensor, i: Expr, number: int, total: int, at: Sequence[Expr], otherwise: Expr | None) -> Expr:
    if total == 1:
        return x[tuple(at)]
    here = x.guarded(eq(i, const(number)), tuple(at))
    return here if otherwise is None else select(as_expr(i) <= number, here, otherwise)
