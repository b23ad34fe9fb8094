"""How a verifier refuses: the law, the form and the place, and what was found there."""

from __future__ import annotations

import attrs

from tilewright.errors import VerifyError
from tilewright.ir.expr import Apply, Expr, walk
from tilewright.ir.ops import Value
from tilewright.ir.text.exprs import print_expr

_SHOWN = 64


@attrs.frozen
class Place:
    """Where something stands in a form, outermost first: `module, function main, tensor conv1, read 0`."""

    form: str
    parts: tuple[str, ...] = ()

    def at(self, part: str) -> Place:
        """A place inside this one."""
        return Place(self.form, (*self.parts, part))

    def __str__(self) -> str:
        return ", ".join((self.form, *self.parts))

    def broken(self, law: str, found: str) -> VerifyError:
        """The error that says that `law` does not hold here."""
        return VerifyError(f"{self}: {found}. Law: {law}.")


def show(expr: Expr | None) -> str:
    """An expression for a message; a very large one by its operator and size."""
    if expr is None:
        return "none"
    sizes: dict[Expr, int] = {}
    for node in walk(expr):
        sizes[node] = 1 + sum(sizes[x] for x in node.args) if isinstance(node, Apply) else 1
    if sizes[expr] > _SHOWN:
        return f"an expression of {len(sizes)} distinct nodes"
    return print_expr(expr)


def show_value(value: Value) -> str:
    """Dtype and shape of a value for a message: `float32[2, n]`."""
    return f"{value.dtype}[{', '.join(map(show, value.shape))}]"
