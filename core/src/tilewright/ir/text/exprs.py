"""Text of scalar expressions: infix where that is natural, functions otherwise.

A literal carries its dtype (`0.5:float16`) only where the reader could not know it from the context, from the
operand beside it, or from its form (`1` is int64, `1.0` float32, `true` bool). `x - 3` stands for the sum with the
literal -3, as the constructors build it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import OPS, Apply, Const, Expr, Load, Var
from tilewright.ir.text.names import default_dtype, literal, quote

# operator: (text, precedence). Comparisons do not associate, the others associate to the left.
INFIX: Mapping[str, tuple[str, int]] = {
    "or": ("or", 1),
    "and": ("and", 2),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "eq": ("==", 4),
    "ne": ("!=", 4),
    "bitor": ("|", 5),
    "bitxor": ("^", 6),
    "bitand": ("&", 7),
    "shl": ("<<", 8),
    "shr": (">>", 8),
    "add": ("+", 9),
    "sub": ("-", 9),
    "mul": ("*", 10),
    "div": ("/", 10),
    "floordiv": ("//", 10),
    "floormod": ("%", 10),
}
NOT, COMPARISON, UNARY, ATOM = 3, 4, 11, 12
PREFIX = {"not": ("not ", NOT), "neg": ("-", UNARY), "bitnot": ("~", UNARY)}


@attrs.frozen
class Scope:
    """What the reader of an expression knows: dtypes of variables (int64 if not listed) and of loads, and lets."""

    variables: Mapping[str, str] = attrs.field(factory=dict)
    loads: Sequence[str] = ()
    lets: Mapping[Expr, str] = attrs.field(factory=dict)


NOTHING = Scope()


def print_expr(expr: Expr, known: str | None = None, scope: Scope = NOTHING) -> str:
    """The text of `expr`; `known` is the dtype that the place where it stands prescribes, if any."""
    return _print(expr, known, scope, 0)


def inferable(expr: Expr) -> bool:
    """Whether the text of `expr` shows its dtype without help: it holds more than literals."""
    if isinstance(expr, Const):
        return False
    if isinstance(expr, Apply) and _keeps_dtype(expr.op):
        return any(inferable(x) for x in (expr.args[1:] if expr.op == "select" else expr.args))
    return True


def _keeps_dtype(op: str) -> bool:
    """Whether the result has the operands' dtype. Ill-formed expressions are printed too, for error messages."""
    return op not in OPS or OPS[op].result == "same"


def _print(expr: Expr, known: str | None, scope: Scope, outer: int) -> str:
    if expr in scope.lets:
        return scope.lets[expr]
    if isinstance(expr, Const):
        text = literal(expr)
        return text if (known or default_dtype(text)) == expr.dtype else f"{text}:{expr.dtype}"
    if isinstance(expr, Var):
        plain = scope.variables.get(expr.name, "int64") == expr.dtype
        return quote(expr.name) if plain else f"{quote(expr.name)}:{expr.dtype}"
    if isinstance(expr, Load):
        plain = expr.slot < len(scope.loads) and scope.loads[expr.slot] == expr.dtype
        return f"%{expr.slot}" if plain else f"%{expr.slot}:{expr.dtype}"
    assert isinstance(expr, Apply)
    text, precedence = _apply(expr, known, scope)
    return f"({text})" if precedence < outer else text


def _apply(expr: Apply, known: str | None, scope: Scope) -> tuple[str, int]:
    op, args = expr.op, expr.args
    if op == "cast" and len(args) == 1:
        return f"{expr.dtype}({_print(args[0], None, scope, 0)})", ATOM
    if op == "bitcast" and len(args) == 1:
        return f"bitcast({_print(args[0], None, scope, 0)}, {expr.dtype})", ATOM
    typed = args[1:] if op == "select" else args
    if any(inferable(x) for x in typed):
        known = typed[0].dtype
    elif not _keeps_dtype(op):
        known = None
    if op in PREFIX and len(args) == 1 and not isinstance(args[0], Const):
        sign, precedence = PREFIX[op]
        return sign + _print(args[0], known, scope, precedence), precedence
    if op in INFIX and len(args) == 2:
        return _infix(op, args, known, scope)
    return _call(op, args, known, scope), ATOM


def _infix(op: str, args: tuple[Expr, ...], known: str | None, scope: Scope) -> tuple[str, int]:
    sign, precedence = INFIX[op]
    left, right = args
    if precedence == COMPARISON:
        if op in ("lt", "le") and isinstance(left, Const) and not isinstance(right, Const):
            left, right, sign = right, left, sign.replace("<", ">")
        parts = (_print(x, known, scope, precedence + 1) for x in (left, right))
        return f" {sign} ".join(parts), precedence
    if isinstance(right, Const) and right.dtype in dtypes.SIGNED and isinstance(right.value, int):
        if op == "sub" and right.value >= 0:
            return _call(op, args, known, scope), ATOM
        if op == "add" and right.value < 0:
            sign, right = "-", Const(-right.value, right.dtype)
    first = _print(left, known, scope, precedence)
    return f"{first} {sign} {_print(right, known, scope, precedence + 1)}", precedence


def _call(op: str, args: tuple[Expr, ...], known: str | None, scope: Scope) -> str:
    parts = [_print(x, "bool" if op == "select" and i == 0 else known, scope, 0) for i, x in enumerate(args)]
    return f"{op}({', '.join(parts)})"
