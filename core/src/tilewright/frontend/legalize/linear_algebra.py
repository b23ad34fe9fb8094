"""Det of small matrices."""

from __future__ import annotations

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir.expr import Expr

rule = Family()

_LARGEST = 4


@rule("Det")
def _det(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    size = x.shape[-1]
    if not 0 < size <= _LARGEST:
        raise node.unsupported(f"is of {size}x{size} matrices.", f"Up to {_LARGEST}x{_LARGEST} are compiled.")

    def minor(at: tuple[Expr, ...], row: int, columns: tuple[int, ...]) -> Expr:
        """Determinant of the rows from `row` and the given columns, by cofactors."""
        total: Expr | None = None
        for n, column in enumerate(columns):
            term = wide(x[(*at, row, column)])
            if len(columns) > 1:
                term = term * minor(at, row + 1, tuple(c for c in columns if c != column))
            total = term if total is None else total - term if n % 2 else total + term
        assert total is not None
        return total

    return b.compute(out.dtype, out.static_shape(), lambda *i: minor(i, 0, tuple(range(size))))
