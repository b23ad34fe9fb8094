"""Laws of expressions: names in scope, read slots that are there, operands of one suited dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import INFINITY, Bounds, bounds_of
from tilewright.ir.expr import OPS, Apply, Const, Expr, Load, Var, walk
from tilewright.ir.verify.laws import Place, show

TYPES = "the operands of an operator have one dtype on which it is defined, and the result has the dtype it says"
SCOPE = "an expression uses axes, symbols and earlier reads of its operator only"
EXTENTS = "an extent is an int64 expression over the module's symbols, between 0 and a static upper bound"


@attrs.define
class ExprChecker:
    """Checks the expressions of one operator; each distinct node once per scope.

    Args:
        variables: dtype by name.
        loads: dtype of each read, by slot.
    """

    variables: Mapping[str, str]
    loads: Sequence[str] = ()
    _done: set[Expr] = attrs.field(factory=set, init=False)

    def check(self, expr: Expr, place: Place, dtype: str = "") -> None:
        """Raises VerifyError when a law is broken, or when `expr` is not of `dtype` (if one is given)."""
        for node in walk(expr):
            if node not in self._done:
                self._check(node, place)
                self._done.add(node)
        if dtype and expr.dtype != dtype:
            raise place.broken(f"{place.parts[-1]} is {dtype}", f"{show(expr)} is {expr.dtype}")

    def _check(self, node: Expr, place: Place) -> None:
        match node:
            case Const():
                _literal(node, place)
            case Var():
                if node.name not in self.variables:
                    raise place.broken(SCOPE, f"variable {node.name!r} is not in scope")
                if self.variables[node.name] != node.dtype:
                    found = f"variable {node.name!r} is {self.variables[node.name]}, used as {node.dtype}"
                    raise place.broken(TYPES, found)
            case Load():
                if not 0 <= node.slot < len(self.loads):
                    raise place.broken(SCOPE, f"%{node.slot} is not one of the {len(self.loads)} reads that it may use")
                if self.loads[node.slot] != node.dtype:
                    raise place.broken(TYPES, f"%{node.slot} is {self.loads[node.slot]}, used as {node.dtype}")
            case Apply():
                problem = _problem(node)
                if problem:
                    raise place.broken(TYPES, f"{show(node)}: {problem}")


def _literal(node: Const, place: Place) -> None:
    expected = bool if node.dtype == "bool" else float if dtypes.is_float(node.dtype) else int
    if type(node.value) is not expected:
        raise place.broken(TYPES, f"literal {node.value!r} is not a value of {node.dtype}")
    if isinstance(node.value, int) and node.dtype != "bool":
        low, high = dtypes.integer_range(node.dtype)
        if not low <= node.value <= high:
            raise place.broken(TYPES, f"literal {node.value} is not a value of {node.dtype}")


def _problem(node: Apply) -> str:
    info = OPS.get(node.op)
    if info is None:
        return f"{node.op!r} is not an operator"
    if len(node.args) != info.arity:
        return f"{node.op} takes {info.arity} operands, not {len(node.args)}"
    if info.result == "cast":
        widths = dtypes.bits(node.dtype), dtypes.bits(node.args[0].dtype)
        if node.op == "cast" and "n" in (dtypes.kind(node.dtype), dtypes.kind(node.args[0].dtype)):
            return f"{node.args[0].dtype} is not cast to {node.dtype}"
        return "a bitcast keeps the width" if node.op == "bitcast" and widths[0] != widths[1] else ""
    typed = node.args[1:] if node.op == "select" else node.args
    if node.op == "select" and node.args[0].dtype != "bool":
        return f"the condition of select is {node.args[0].dtype}"
    dtype = typed[0].dtype
    if any(x.dtype != dtype for x in typed):
        return f"operands are {', '.join(x.dtype for x in typed)}"
    if dtypes.kind(dtype) not in info.kinds:
        return f"{node.op} is not defined on {dtype}"
    result = "bool" if info.result == "bool" else dtype
    return "" if node.dtype == result else f"the result is {result}, not {node.dtype}"


def check_extent(extent: Expr, symbols: Bounds, place: Place) -> None:
    """The laws of an extent of an axis or a value."""
    ExprChecker(dict.fromkeys(symbols, "int64")).check(extent, place)
    if extent.dtype != "int64":
        raise place.broken(EXTENTS, f"{show(extent)} is {extent.dtype}")
    found = bounds_of(extent, symbols)
    if found.low < 0 or found.high >= INFINITY:
        raise place.broken(EXTENTS, f"{show(extent)} is only known to lie in [{found.low}, {found.high}]")
