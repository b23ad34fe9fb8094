"""JSON of expressions.

A number is an int64 literal, `true` a bool, a string an int64 variable; otherwise an object with the key `const`,
`var`, `load` or `op`. A sub-expression that occurs twice has an `id` at its first place and stands as `{"ref": id}`
at the others.
"""

from __future__ import annotations

import math
from typing import Any

from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.ir.expr import OPS, Apply, Const, Expr, Load, Var, const, walk


class SerialError(InputError):
    """A document is not JSON, of another format or version, or does not fit the class that was asked for."""


def dump_float(value: float) -> float | str:
    """A float; infinities and NaN, which JSON does not have, as text."""
    return value if math.isfinite(value) else repr(value)


def load_float(data: Any) -> float:
    """What `dump_float` wrote. Raises SerialError."""
    if data in ("inf", "-inf", "nan"):
        return float(data)
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise SerialError(f"a number is needed, not {data!r}")
    return float(data)


def dump_expr(expr: Expr) -> Any:
    """The JSON value of an expression."""
    uses: dict[Expr, int] = {}
    for node in walk(expr):
        if isinstance(node, Apply):
            for arg in node.args:
                uses[arg] = uses.get(arg, 0) + 1
    ids: dict[Expr, int] = {}

    def visit(node: Expr) -> Any:
        if node in ids:
            return {"ref": ids[node]}
        data = _leaf(node)
        if isinstance(node, Apply):
            data = {"op": node.op, "dtype": node.dtype, "args": [visit(x) for x in node.args]}
            if uses.get(node, 0) > 1:
                ids[node] = data["id"] = len(ids)
        return data

    return visit(expr)


def _leaf(node: Expr) -> Any:
    match node:
        case Const(value=float()):
            return {"const": dump_float(node.value), "dtype": node.dtype}
        case Const():
            return node.value if node.dtype in ("int64", "bool") else {"const": node.value, "dtype": node.dtype}
        case Var():
            return node.name if node.dtype == "int64" else {"var": node.name, "dtype": node.dtype}
        case Load():
            return {"load": node.slot, "dtype": node.dtype}
    return None


def load_expr(data: Any) -> Expr:
    """The expression of a JSON value, node by node as it was written (nothing is folded). Raises SerialError."""
    ids: dict[int, Expr] = {}

    def visit(given: Any) -> Expr:
        if isinstance(given, bool):
            return const(given, "bool")
        if isinstance(given, int):
            return _const(given, "int64")
        if isinstance(given, str):
            return Var(given)
        if not isinstance(given, dict):
            raise SerialError(f"an expression is a number, a string or an object, not {given!r}")
        if given.keys() == {"ref"}:
            if given["ref"] not in ids:
                raise SerialError(f"the expression refers to {given['ref']!r}, which has not occurred yet")
            return ids[given["ref"]]
        kinds = given.keys() & {"const", "var", "load", "op"}
        if len(kinds) != 1 or given.get("dtype") not in dtypes.STORED:
            raise SerialError(
                f"an expression needs one of const, var, load, op and a known dtype, found {_short(given)}"
            )
        kind = kinds.pop()
        allowed = {kind, "dtype"} | ({"args", "id"} if kind == "op" else set())
        if not given.keys() <= allowed:
            raise SerialError(f"unknown fields {sorted(given.keys() - allowed)} in an expression")
        return _apply(given) if kind == "op" else _load_leaf(kind, given[kind], given["dtype"])

    def _apply(given: dict[str, Any]) -> Expr:
        args = given.get("args")
        if given["op"] not in OPS or not isinstance(args, list) or len(args) != OPS[given["op"]].arity:
            raise SerialError(f"no operator of the expression language with such operands: {_short(given)}")
        node = Apply(given["op"], tuple(visit(x) for x in args), given["dtype"])
        if "id" in given:
            ids[given["id"]] = node
        return node

    return visit(data)


def _load_leaf(kind: str, data: Any, dtype: str) -> Expr:
    if kind == "var" and isinstance(data, str):
        return Var(data, dtype)
    if kind == "load" and isinstance(data, int) and not isinstance(data, bool) and data >= 0:
        return Load(data, dtype)
    if kind == "const":
        return _const(load_float(data) if dtypes.is_float(dtype) else data, dtype)
    raise SerialError(f"{data!r} is not a {kind}")


def _const(data: Any, dtype: str) -> Const:
    if not dtypes.is_float(dtype):
        low, high = dtypes.integer_range(dtype)
        if isinstance(data, bool) != (dtype == "bool") or not isinstance(data, int) or not low <= data <= high:
            raise SerialError(f"{data!r} is not a literal of {dtype}")
    return const(data, dtype)


def _short(given: dict[str, Any]) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:80]}…"
