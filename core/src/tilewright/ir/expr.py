"""Scalar expressions: integer extents and indices, and the bodies of tensor operators.

Four node kinds. `Const` and `Var` are leaves; `Load(slot)` stands for the value that the enclosing operator's
`reads[slot]` has at the current point of the iteration domain; `Apply` is any function of `OPS`.
The constructors fold constants and drop neutral elements, so that extents stay small; anything that needs the
bounds of the symbols is in `bounds`.

Python's operators build expressions. `==` compares structure (use `eq` for the comparison operator).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import attrs
import numpy as np

from tilewright.errors import SymbolicError
from tilewright.ir import dtypes

Scalar = bool | int | float


@attrs.frozen
class OpInfo:
    """What an `Apply` may name: arity, the dtype of its result, and whether it needs floats or integers."""

    arity: int
    result: str  # "same" as the arguments, "bool", or "cast" (explicit)
    kinds: str = "fib"  # f floats, i integers, b bool
    commutative: bool = False


OPS: dict[str, OpInfo] = {
    # arithmetic; floordiv/floormod round to minus infinity, truncdiv/truncmod to zero
    "add": OpInfo(2, "same", "fi", True),
    "sub": OpInfo(2, "same", "fi"),
    "mul": OpInfo(2, "same", "fi", True),
    "div": OpInfo(2, "same", "f"),
    "floordiv": OpInfo(2, "same", "i"),
    "floormod": OpInfo(2, "same", "fi"),
    "truncdiv": OpInfo(2, "same", "i"),
    "truncmod": OpInfo(2, "same", "fi"),
    "pow": OpInfo(2, "same", "fi"),
    "min": OpInfo(2, "same", "fi", True),  # NaN if either is NaN
    "max": OpInfo(2, "same", "fi", True),
    "neg": OpInfo(1, "same", "fi"),
    "abs": OpInfo(1, "same", "fi"),
    "sign": OpInfo(1, "same", "fi"),
    # float functions
    **{
        name: OpInfo(1, "same", "f")
        for name in (
            *("exp", "log", "sqrt", "rsqrt", "erf"),
            *("sin", "cos", "tan", "asin", "acos", "atan"),
            *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
            *("floor", "ceil", "round", "trunc"),  # round: half to even
        )
    },
    "isnan": OpInfo(1, "bool", "f"),
    "isinf": OpInfo(1, "bool", "f"),
    # comparison and logic
    "eq": OpInfo(2, "bool", commutative=True),
    "ne": OpInfo(2, "bool", commutative=True),
    "lt": OpInfo(2, "bool"),
    "le": OpInfo(2, "bool"),
    "and": OpInfo(2, "same", "b", True),
    "or": OpInfo(2, "same", "b", True),
    "xor": OpInfo(2, "same", "b", True),
    "not": OpInfo(1, "same", "b"),
    "bitand": OpInfo(2, "same", "i", True),
    "bitor": OpInfo(2, "same", "i", True),
    "bitxor": OpInfo(2, "same", "i", True),
    "bitnot": OpInfo(1, "same", "i"),
    "shl": OpInfo(2, "same", "i"),  # shifts by the width or more give 0
    "shr": OpInfo(2, "same", "i"),
    # the untaken side of a select may be evaluated: it must not trap
    "select": OpInfo(3, "same", "fibn"),
    "cast": OpInfo(1, "cast"),  # C semantics; float to integer truncates
    "bitcast": OpInfo(1, "cast"),
}


class Expr:
    """Base of the four node kinds; carries the Python operators."""

    __slots__ = ()
    dtype: str

    def __bool__(self) -> bool:
        raise TypeError(f"whether {self!r} holds is not known while compiling")

    def __add__(self, other: Expr | Scalar) -> Expr:
        return apply("add", self, other)

    def __radd__(self, other: Expr | Scalar) -> Expr:
        return apply("add", other, self)

    def __sub__(self, other: Expr | Scalar) -> Expr:
        return apply("sub", self, other)

    def __rsub__(self, other: Expr | Scalar) -> Expr:
        return apply("sub", other, self)

    def __mul__(self, other: Expr | Scalar) -> Expr:
        return apply("mul", self, other)

    def __rmul__(self, other: Expr | Scalar) -> Expr:
        return apply("mul", other, self)

    def __truediv__(self, other: Expr | Scalar) -> Expr:
        return apply("div", self, other)

    def __rtruediv__(self, other: Expr | Scalar) -> Expr:
        return apply("div", other, self)

    def __floordiv__(self, other: Expr | Scalar) -> Expr:
        return apply("floordiv", self, other)

    def __mod__(self, other: Expr | Scalar) -> Expr:
        return apply("floormod", self, other)

    def __neg__(self) -> Expr:
        return apply("neg", self)

    def __lt__(self, other: Expr | Scalar) -> Expr:
        return apply("lt", self, other)

    def __le__(self, other: Expr | Scalar) -> Expr:
        return apply("le", self, other)

    def __gt__(self, other: Expr | Scalar) -> Expr:
        return apply("lt", other, self)

    def __ge__(self, other: Expr | Scalar) -> Expr:
        return apply("le", other, self)

    def __and__(self, other: Expr | Scalar) -> Expr:
        return apply("and", self, other)

    def __or__(self, other: Expr | Scalar) -> Expr:
        return apply("or", self, other)

    def __invert__(self) -> Expr:
        return apply("not", self)


def _key(value: Scalar) -> object:
    # NaN equals NaN and 0.0 differs from -0.0, so that structure is what is compared.
    if isinstance(value, float):
        return ("nan",) if math.isnan(value) else (value, math.copysign(1.0, value))
    return value


@attrs.frozen(cache_hash=True, order=False, repr=False)
class Const(Expr):
    """A literal of `dtype`. Floats of narrow types hold their rounded value."""

    value: Scalar = attrs.field(eq=_key)
    dtype: str

    def __repr__(self) -> str:
        return f"{self.value}" if self.dtype == "int64" else f"{self.value}:{self.dtype}"


@attrs.frozen(cache_hash=True, order=False, repr=False)
class Var(Expr):
    """A named symbol: an axis, a dimension, a loop index, a scalar value or a combiner's argument."""

    name: str
    dtype: str = "int64"

    def __repr__(self) -> str:
        return self.name


@attrs.frozen(cache_hash=True, order=False, repr=False)
class Load(Expr):
    """The value of the enclosing operator's `reads[slot]` at this point of its domain."""

    slot: int
    dtype: str

    def __repr__(self) -> str:
        return f"%{self.slot}"


@attrs.frozen(unsafe_hash=True, cache_hash=True, order=False, repr=False)
class Apply(Expr):
    """`op` of `OPS` applied to `args`."""

    op: str
    args: tuple[Expr, ...]
    dtype: str

    def __eq__(self, other: object) -> bool:
        """Whether the structure is the same. Two expressions meet once, however often they are shared."""
        if not isinstance(other, Apply):
            return NotImplemented
        met: set[tuple[int, int]] = set()
        pairs: list[tuple[Expr, Expr]] = [(self, other)]
        while pairs:
            a, b = pairs.pop()
            if a is b or (id(a), id(b)) in met:
                continue
            if not isinstance(a, Apply) or not isinstance(b, Apply):
                if a != b:
                    return False
                continue
            if hash(a) != hash(b) or (a.op, a.dtype, len(a.args)) != (b.op, b.dtype, len(b.args)):
                return False
            met.add((id(a), id(b)))
            pairs += zip(a.args, b.args, strict=True)
        return True

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, self.args))})"


def const(value: Scalar, dtype: str = "int64") -> Const:
    """A literal, rounded to `dtype` (integers wrap as in two's complement)."""
    if dtype == "bool":
        return Const(bool(value), dtype)
    if dtypes.is_float(dtype):
        with np.errstate(over="ignore"):
            return Const(float(np.asarray(value, np.float64).astype(dtypes.to_numpy(dtype))), dtype)
    low, high = dtypes.integer_range(dtype)
    return Const((int(value) - low) % (high - low + 1) + low, dtype)


def as_expr(value: Expr | Scalar, dtype: str = "int64") -> Expr:
    """`value` itself when it is an expression, otherwise a literal of `dtype`."""
    return value if isinstance(value, Expr) else const(value, dtype)


def apply(op: str, *operands: Expr | Scalar) -> Expr:
    """`op(operands)` with literals folded. Python numbers take the dtype of the other operands.

    Raises:
        TypeError: unknown operator, wrong arity, or operands of different or unsuited dtypes.
    """
    info = OPS.get(op)
    if info is None or info.result == "cast":
        raise TypeError(f"{op!r} is not an operator of the expression language")
    if len(operands) != info.arity:
        raise TypeError(f"{op} takes {info.arity} operands, not {len(operands)}")
    typed = operands[1:] if op == "select" else operands
    dtype = next((x.dtype for x in typed if isinstance(x, Expr)), "int64")
    args = tuple(
        as_expr(x, "bool" if op == "select" and i == 0 else dtype) for i, x in enumerate(operands)
    )
    checked = args[1:] if op == "select" else args
    if any(x.dtype != dtype for x in checked) or (op == "select" and args[0].dtype != "bool"):
        raise TypeError(f"{op} needs operands of one dtype, got {', '.join(x.dtype for x in args)}")
    if dtypes.kind(dtype) not in info.kinds:
        raise TypeError(f"{op} is not defined on {dtype}")
    return _fold(op, args, "bool" if info.result == "bool" else dtype)


def cast(value: Expr | Scalar, dtype: str) -> Expr:
    """`value` converted to `dtype` (nothing if it has it already)."""
    if not isinstance(value, Expr):
        return const(value, dtype)
    if value.dtype == dtype:
        return value
    if isinstance(value, Const) and not (isinstance(value.value, float) and not math.isfinite(value.value)):
        if dtype in dtypes.INTEGERS and isinstance(value.value, float):
            return const(math.trunc(value.value), dtype)
        return const(value.value, dtype)
    return Apply("cast", (value,), dtype)


def bitcast(value: Expr, dtype: str) -> Expr:
    """The bits of `value` read as `dtype` of the same width."""
    if dtypes.bits(value.dtype) != dtypes.bits(dtype):
        raise TypeError(f"bitcast from {value.dtype} to {dtype} changes the width")
    return value if value.dtype == dtype else Apply("bitcast", (value,), dtype)


def select(condition: Expr, if_true: Expr | Scalar, if_false: Expr | Scalar) -> Expr:
    """`if_true` where the condition holds, else `if_false`; both may be evaluated."""
    return apply("select", condition, if_true, if_false)


def minimum(a: Expr | Scalar, b: Expr | Scalar) -> Expr:
    """The smaller one; NaN if either is NaN."""
    return apply("min", a, b)


def maximum(a: Expr | Scalar, b: Expr | Scalar) -> Expr:
    """The larger one; NaN if either is NaN."""
    return apply("max", a, b)


def eq(a: Expr | Scalar, b: Expr | Scalar) -> Expr:
    """The comparison `a == b` as an expression."""
    return apply("eq", a, b)


def all_of(*conditions: Expr | None) -> Expr | None:
    """The conjunction of the conditions that are there; None when none is."""
    result: Expr | None = None
    for condition in conditions:
        if condition is not None:
            result = condition if result is None or result == condition else apply("and", result, condition)
    return result


def ceil_div(a: Expr | int, b: Expr | int) -> Expr:
    """⌈a / b⌉ of integers, b > 0."""
    return (as_expr(a) + (as_expr(b) - 1)) // as_expr(b)


_INT_FOLD: dict[str, Callable[..., Scalar]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "max": max,
    "neg": lambda a: -a,
    "abs": abs,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "floordiv": lambda a, b: a // b,
    "floormod": lambda a, b: a % b,
}


def _fold(op: str, args: tuple[Expr, ...], dtype: str) -> Expr:
    """`Apply` with integer and boolean literals folded; floats are left alone (their rounding is the target's)."""
    if args[0].dtype in ("bool", *dtypes.INTEGERS) and op in _INT_FOLD and all(
        isinstance(x, Const) for x in args
    ):
        values = [x.value for x in args if isinstance(x, Const)]
        if op not in ("floordiv", "floormod") or values[1] != 0:
            return const(_INT_FOLD[op](*values), dtype)
    first = args[0]
    second = args[1] if len(args) > 1 else None
    if op == "select":
        if isinstance(first, Const):
            return args[1] if first.value else args[2]
        return args[1] if args[1] == args[2] else Apply(op, args, dtype)
    if op in ("and", "or"):
        for one, other in ((first, second), (second, first)):
            if isinstance(one, Const) and other is not None:
                return other if bool(one.value) == (op == "and") else one
        return first if first == second else Apply(op, args, dtype)
    if op == "not" and isinstance(first, Apply) and first.op == "not":
        return first.args[0]
    if dtypes.is_integer(dtype) and second is not None:
        simplified = _integer_identity(op, first, second)
        if simplified is not None:
            return simplified
    if dtype == "bool" and op in ("eq", "le") and first == second and dtypes.is_integer(first.dtype):
        return const(True, "bool")
    if OPS[op].commutative and isinstance(first, Const) and second is not None and not isinstance(second, Const):
        args = (second, first)  # literals stand on the right
    return Apply(op, args, dtype)


def _integer_identity(op: str, a: Expr, b: Expr) -> Expr | None:
    av = a.value if isinstance(a, Const) else None
    bv = b.value if isinstance(b, Const) else None
    match op:
        case "add":
            if av == 0:
                return b
            if bv == 0:
                return a
            if bv is not None and isinstance(a, Apply) and a.op in ("add", "sub"):
                inner = a.args[1]
                if isinstance(inner, Const):  # (x ± c) + d
                    offset = inner.value if a.op == "add" else -inner.value
                    return _fold("add", (a.args[0], const(offset + bv, a.dtype)), a.dtype)
        case "sub":
            if bv == 0:
                return a
            if a == b:
                return const(0, a.dtype)
            if bv is not None and a.dtype in dtypes.SIGNED:
                return _fold("add", (a, const(-bv, a.dtype)), a.dtype)
        case "mul":
            for one, other in ((a, b), (b, a)):
                if isinstance(one, Const):
                    if one.value == 0:
                        return one
                    if one.value == 1:
                        return other
        case "floordiv" | "truncdiv":
            if bv == 1:
                return a
        case "floormod":
            if bv == 1:
                return const(0, a.dtype)
        case "min" | "max":
            if a == b:
                return a
    return None


def map_expr(expr: Expr, leaf: Callable[[Expr], Expr | None]) -> Expr:
    """`expr` rebuilt bottom-up; `leaf` may replace any node (return None to keep and descend).

    Shared sub-expressions are visited once.
    """
    done: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr:
        found = done.get(node)
        if found is not None:
            return found
        replaced = leaf(node)
        if replaced is None:
            replaced = node
            if isinstance(node, Apply):
                args = tuple(visit(x) for x in node.args)
                if any(x is not y for x, y in zip(args, node.args, strict=True)):
                    replaced = rebuild(node, args)
        done[node] = replaced
        return replaced

    return visit(expr)


def rebuild(node: Apply, args: tuple[Expr, ...]) -> Expr:
    """`node` with other arguments, folded again."""
    if node.op == "cast":
        return cast(args[0], node.dtype)
    if node.op == "bitcast":
        return bitcast(args[0], node.dtype)
    return apply(node.op, *args)


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """`expr` with the variables named in `values` replaced."""
    if not values:
        return expr
    return map_expr(expr, lambda node: values.get(node.name) if isinstance(node, Var) else None)


def replace_loads(expr: Expr, loads: Mapping[int, Expr]) -> Expr:
    """`expr` with `Load(slot)` replaced for the slots in `loads`."""
    return map_expr(expr, lambda node: loads.get(node.slot) if isinstance(node, Load) else None)


def walk(expr: Expr) -> list[Expr]:
    """Every distinct node of `expr`, arguments before the nodes that use them."""
    seen: dict[Expr, None] = {}

    def visit(node: Expr) -> None:
        if node not in seen:
            if isinstance(node, Apply):
                for arg in node.args:
                    visit(arg)
            seen[node] = None

    visit(expr)
    return list(seen)


def variables(*exprs: Expr | None) -> frozenset[str]:
    """Names of the variables in the expressions."""
    return frozenset(n.name for e in exprs if e is not None for n in walk(e) if isinstance(n, Var))


def loads(*exprs: Expr | None) -> frozenset[int]:
    """Slots read by the expressions."""
    return frozenset(n.slot for e in exprs if e is not None for n in walk(e) if isinstance(n, Load))


def static(expr: Expr, what: str = "extent") -> int:
    """The value of a literal integer expression. Raises SymbolicError when it still holds a symbol."""
    if isinstance(expr, Const) and isinstance(expr.value, int):
        return int(expr.value)
    raise SymbolicError(
        f"The {what} is {expr!r}, and a fixed number is needed here.",
        f"Fix it when compiling, for example --shape {min(variables(expr), default='seq')}=128.",
    )


Extent = Expr | int
"""A number of positions: an integer, or an expression over symbols."""


def number_of(extents: Iterable[Extent]) -> Expr:
    """The number of points of a domain."""
    total: Expr = const(1)
    for n in extents:
        total = total * n
    return total


def as_extent(expr: Expr) -> Extent:
    """The integer that a literal holds, any other expression as it is."""
    return int(expr.value) if isinstance(expr, Const) else expr


