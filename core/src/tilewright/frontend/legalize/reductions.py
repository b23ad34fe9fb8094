"""Reduce* operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.frontend.legalize.builder import Builder, Tensor, as_float, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, cast, number_of, select
from tilewright.ir.ops import Combiner

rule = Family()


def over(
    b: Builder,
    x: Tensor,
    axes: Sequence[int],
    dtype: str,
    how: str | Combiner,
    each: Callable[[Expr], Expr],
    name: str = "",
    *,
    point: Callable[..., Expr] | None = None,
    keep: bool = True,
) -> Tensor:
    """`each(x)` reduced over `axes`.

    Args:
        point: called with an index of `x`; gives the element that is reduced, instead of `x`.
        keep: whether the reduced dimensions stay, with extent 1.
    """
    reduced = sorted(axes)
    kept = [d for d in range(x.rank) if d not in reduced]
    spatial = [1 if d in reduced else n for d, n in enumerate(x.extents) if keep or d in kept]

    def body(*i: Expr) -> Expr:
        index = list(i[: x.rank]) if keep else [i[0]] * x.rank
        if not keep:
            for d, at in zip(kept, i, strict=False):
                index[d] = at
        for d, r in zip(reduced, i[len(spatial) :], strict=True):
            index[d] = r
        return each(x[tuple(index)] if point is None else point(*index))

    if not reduced:
        return b.compute(dtype, spatial, lambda *i: each(x[i] if point is None else point(*i)), name)
    return b.reduce(dtype, spatial, [x.extents[d] for d in reduced], how, body, name)


def _axes(node: Node, listed_since: int) -> list[int]:
    """Axes to reduce."""
    rank = node[0].rank
    listed = node.version >= listed_since
    given = node.ints(1, "axes") if listed else node.attr("axes")
    if not given:
        return [] if listed and node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [node.normal_axis(int(a), rank) for a in given]


Function = Callable[[Expr], Expr]


def _rule(
    op_type: str,
    how: str,
    each: Function | None = None,
    finish: Callable[[Node, Expr], Function] | None = None,
    *,
    listed_since: int = 18,
    widened: bool = True,
) -> None:
    """Registers a reduction: `finish(combine(each(x)))`.

    Args:
        each: applied to every element, in the accumulator's dtype if `widened`.
        finish: given the node and the number of elements per result, gives what is applied to the result.
        listed_since: opset from which the axes are an input.
    """

    def build(b: Builder, node: Node) -> Tensor:
        x, out = node[0], node.out()
        axes = _axes(node, listed_since)
        keep = bool(node.attr("keepdims", 1))

        def element(v: Expr) -> Expr:
            v = wide(v) if widened else v
            return v if each is None else each(v)

        stored = dtypes.accumulator(x.dtype) if finish is not None and widened else out.dtype
        result = over(b, x, axes, stored, how, element, "" if finish is None else how, keep=keep)
        if finish is None:
            return result
        last = finish(node, number_of([x.extents[d] for d in axes]))
        return b.compute(out.dtype, out.extents, lambda *i: _in_float(last, result[i], out.dtype))

    rule(op_type)(build)


def _in_float(function: Function, x: Expr, dtype: str) -> Expr:
    """`function` on floats; integers go through float64 and back."""
    if dtypes.is_float(dtype):
        return function(x)
    return cast(function(cast(x, "float64")), dtype)


def _named(op: str) -> Callable[[Node, Expr], Function]:
    return lambda node, count: lambda x: apply(op, x)


def _absolute(x: Expr) -> Expr:
    return x if x.dtype in dtypes.UNSIGNED else apply("abs", x)


_rule("ReduceSum", "sum", listed_since=13)
_rule("ReduceProd", "prod")
_rule("ReduceL1", "sum", _absolute)
_rule("ReduceSumSquare", "sum", lambda x: x * x)
_rule("ReduceL2", "sum", lambda x: x * x, _named("sqrt"))
_rule("ReduceLogSum", "sum", None, _named("log"))
_rule("ReduceMean", "sum", None, lambda node, count: lambda x: x / as_float(count, x.dtype))


def _extreme(op_type: str, how: str, logical: str) -> None:
    def build(b: Builder, node: Node) -> Tensor:
        x = node[0]
        axes = _axes(node, 18)
        combined = logical if x.dtype == "bool" else how
        return over(b, x, axes, x.dtype, combined, lambda v: v, keep=bool(node.attr("keepdims", 1)))

    rule(op_type)(build)


_extreme("ReduceMax", "max", "or")
_extreme("ReduceMin", "min", "and")


@rule("ReduceLogSumExp")
def _log_sum_exp(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    if not dtypes.is_float(x.dtype):
        raise node.unsupported(f"sums exponentials of {x.dtype}.", "Cast the input to a float type.")
    axes, keep = _axes(node, 18), bool(node.attr("keepdims", 1))
    carried = dtypes.accumulator(x.dtype)
    highest = over(b, x, axes, carried, "max", wide, "max")
    # An infinite maximum is left out of the difference: inf - inf would be NaN.
    shift = b.compute(carried, highest.extents, lambda *i: _finite(highest[i]), "shift")
    total = over(
        b,
        x,
        axes,
        carried,
        "sum",
        lambda v: v,
        "sum",
        point=lambda *i: apply("exp", wide(x[i]) - shift.at(i)),
    )
    kept = [d for d in range(x.rank) if keep or d not in axes]

    def finish(*i: Expr) -> Expr:
        index: list[Expr | int] = [0] * x.rank
        for d, at in zip(kept, i, strict=True):
            index[d] = at
        return apply("log", total[tuple(index)]) + shift[tuple(index)]

    return b.compute(out.dtype, out.extents, finish)


def _finite(x: Expr) -> Expr:
    return select(apply("isinf", x), 0.0, x)
