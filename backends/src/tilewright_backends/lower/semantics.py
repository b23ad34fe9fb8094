"""The meaning of the expression language's operators in TIR, on scalars and vectors alike.

Follows `tilewright.interpret.evaluate`: half types compute in float32 and round after every operation, integers wrap,
minimum and maximum propagate NaN, and nothing traps, because both sides of a `select` may be evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim, element, lanes_of, literal, matched, with_lanes

Bind = Callable[[Prim], Prim]
"""Gives a value a name, so that it is computed once."""


class Semantics:
    """Lowers operators; a target overrides `function`, the elementary functions of floats."""

    def function(self, name: str, x: Prim, bind: Bind) -> Prim:
        """`name(x)` for float32 and float64: abs, sqrt, floor, exp, log, sin, tanh, erf and the like."""
        raise NotImplementedError

    def power(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        """x to the power of y, floats."""
        raise NotImplementedError

    def remainder(self, x: Prim, y: Prim, bind: Bind) -> Prim:
        """C's fmod, floats."""
        raise NotImplementedError

    def apply(self, op: str, args: list[Prim], given: str, dtype: str, bind: Bind) -> Prim:
        """`op(args)`.

        Args:
            args: carried values (see `types`), scalars or vectors.
            given: the IR dtype of the arguments (of the second one for `select`).
            dtype: the IR dtype of the result.
            bind: names intermediate values.
        """
        args = matched(*args)
        if op == "cast":
            return self._cast(args[0], given, dtype)
        if op == "bitcast":
            return self._bitcast(args[0], given, dtype)
        if op == "select":
            return tirx.Select(*args)
        if dtypes.is_float(given):
            result = self._float(op, args, bind)
        elif given == "bool":
            result = self._bool(op, args)
        else:
            result = self._integer(op, args, given, bind)
        return types.rounded(result, dtype)

    def _float(self, op: str, args: list[Prim], bind: Bind) -> Prim:
        x = args[0]
        y = args[-1]
        lanes = lanes_of(x)

        def number(value: float) -> Prim:
            return literal(value, element(x), lanes)

        compare = types.differ if op == "ne" else _COMPARE.get(op)
        if compare is not None:
            return compare(x, y)
        simple = _FLOAT.get(op)
        if simple is not None:
            return simple(*args)
        match op:
            case "min" | "max":
                return _extreme(op, bind(x), bind(y))
            case "neg":
                return tirx.Mul(x, number(-1.0))
            case "sign":
                x = bind(x)
                negative = tirx.Select(tirx.LT(x, number(0)), number(-1), x)
                return tirx.Select(tirx.LT(number(0), x), number(1), negative)
            case "isnan":
                x = bind(x)
                return types.differ(x, x)
            case "isinf":
                return tirx.EQ(self.function("abs", x, bind), number(math.inf))
            case "rsqrt":
                return tirx.Div(number(1), self.function("sqrt", x, bind))
            case "pow":
                return self.power(bind(x), y, bind)
            case "truncmod":
                return self.remainder(x, y, bind)
            case "floormod":
                y = bind(y)
                rest = bind(self.remainder(x, y, bind))
                below, under = tirx.LT(rest, number(0)), tirx.LT(y, number(0))
                opposite = tirx.Or(tirx.And(below, tirx.Not(under)), tirx.And(tirx.Not(below), under))
                wrong = tirx.And(tirx.NE(rest, number(0)), opposite)
                return tirx.Select(wrong, tirx.Add(rest, y), rest)
            case _:
                return self.function(op, bind(x), bind)

    def _bool(self, op: str, args: list[Prim]) -> Prim:
        x, y = args[0], args[-1]
        match op:
            case "and":
                return tirx.And(x, y)
            case "or":
                return tirx.Or(x, y)
            case "not":
                return tirx.Not(x)
            case "xor" | "ne":
                return tirx.Or(tirx.And(x, tirx.Not(y)), tirx.And(tirx.Not(x), y))
            case "eq":
                return tirx.Or(tirx.And(x, y), tirx.And(tirx.Not(x), tirx.Not(y)))
            case "lt":
                return tirx.And(tirx.Not(x), y)
            case "le":
                return tirx.Or(tirx.Not(x), y)
        raise InternalError(f"{op} is not defined on bool.")

    def _integer(self, op: str, args: list[Prim], dtype: str, bind: Bind) -> Prim:
        x, y = args[0], args[-1]
        lanes = lanes_of(x)
        signed = dtype in dtypes.SIGNED
        bits = dtypes.bits(dtype)

        def number(value: int) -> Prim:
            return literal(value, dtype, lanes)

        compare = _COMPARE.get(op)
        if compare is not None:
            return compare(x, y)
        simple = _INTEGER.get(op)
        if simple is not None:
            return simple(x, y)
        match op:
            case "neg":
                return tirx.Sub(number(0), x)
            case "abs":
                x = bind(x)
                return tirx.Select(tirx.LT(x, number(0)), tirx.Sub(number(0), x), x) if signed else x
            case "sign":
                x = bind(x)
                below = tirx.Select(tirx.LT(x, number(0)), number(-1), number(0)) if signed else number(0)
                return tirx.Select(tirx.LT(number(0), x), number(1), below)
            case "bitnot":
                return tirx.bitwise_not(x)
            case "floordiv" | "floormod" | "truncdiv" | "truncmod":
                return _divide(op, bind(x), bind(y), signed, number)
            case "shl" | "shr":
                y = bind(y)
                inside = tirx.LT(y, number(bits))
                if signed:
                    inside = tirx.And(inside, tirx.LE(number(0), y))
                inside = bind(inside)
                amount = tirx.Select(inside, y, number(0))
                shifted = (tirx.shift_left if op == "shl" else tirx.shift_right)(x, amount)
                return tirx.Select(inside, shifted, number(0))
            case "pow":
                return _integer_power(bind(x), bind(y), signed, bits, number, bind)
        raise InternalError(f"{op} is not defined on {dtype}.")

    def _cast(self, value: Prim, given: str, dtype: str) -> Prim:
        lanes = lanes_of(value)
        if dtype == "bool":
            if given == "bool":
                return value
            zero = literal(0, element(value), lanes)
            return types.differ(value, zero) if dtypes.is_float(given) else tirx.NE(value, zero)
        if dtypes.is_float(given) and dtypes.is_integer(dtype):
            # Through a wider signed type, as the machine does: out of range values must not be undefined.
            wide = {"uint32": "int64"}.get(dtype, "int32" if dtypes.bits(dtype) < 32 else dtype)
            return types.convert(types.convert(value, wide), dtype)
        return types.rounded(types.convert(value, types.carrier(dtype)), dtype)

    def _bitcast(self, value: Prim, given: str, dtype: str) -> Prim:
        stored = types.to_storage(value, given)
        as_stored = tirx.reinterpret(with_lanes(types.storage(dtype), lanes_of(stored)), stored)
        return types.from_storage(as_stored, dtype)


_COMPARE: dict[str, Callable[..., Prim]] = {"eq": tirx.EQ, "ne": tirx.NE, "lt": tirx.LT, "le": tirx.LE}
_FLOAT: dict[str, Callable[..., Prim]] = {
    "add": tirx.Add,
    "sub": tirx.Sub,
    "mul": tirx.Mul,
    "div": tirx.Div,
}
_INTEGER: dict[str, Callable[..., Prim]] = {
    "add": tirx.Add,
    "sub": tirx.Sub,
    "mul": tirx.Mul,
    "min": tirx.Min,
    "max": tirx.Max,
    "bitand": tirx.bitwise_and,
    "bitor": tirx.bitwise_or,
    "bitxor": tirx.bitwise_xor,
}


def _is_number(value: Prim) -> bool:
    """Whether `value` is a float literal other than NaN."""
    scalar = value.value if isinstance(value, tirx.Broadcast) else value
    return isinstance(scalar, tirx.FloatImm) and not math.isnan(float(scalar.value))


def _extreme(op: str, x: Prim, y: Prim) -> Prim:
    """Minimum or maximum of floats; NaN if either is NaN. One machine instruction when one side is a literal."""
    if _is_number(x):
        x, y = y, x
    better = tirx.LT(y, x) if op == "min" else tirx.LT(x, y)
    chosen = tirx.Select(better, y, x)  # x when either is NaN
    return chosen if _is_number(y) else tirx.Select(types.differ(y, y), y, chosen)


def _divide(op: str, x: Prim, y: Prim, signed: bool, number: Callable[[int], Prim]) -> Prim:
    """Integer division that never traps: by zero it gives zero, and by −1 it negates (wrapping)."""
    scalar = y.value if isinstance(y, tirx.Broadcast) else y
    safe = isinstance(scalar, tirx.IntImm) and int(scalar.value) not in (0, -1)
    if not signed:
        zero = tirx.EQ(y, number(0))
        divisor = y if safe else tirx.Select(zero, number(1), y)
        result = (tirx.Div if op.endswith("div") else tirx.Mod)(x, divisor)
        return result if safe else tirx.Select(zero, number(0), result)
    if safe:
        return _signed_division(op, x, y, number)
    zero, minus = tirx.EQ(y, number(0)), tirx.EQ(y, number(-1))
    divisor = tirx.Select(tirx.Or(zero, minus), number(1), y)
    by_minus = tirx.Sub(number(0), x) if op.endswith("div") else number(0)
    result = _signed_division(op, x, divisor, number)
    return tirx.Select(zero, number(0), tirx.Select(minus, by_minus, result))


def _signed_division(op: str, x: Prim, y: Prim, number: Callable[[int], Prim]) -> Prim:
    """Truncating or flooring division by what is neither 0 nor −1."""
    quotient, rest = tirx.Div(x, y), tirx.Mod(x, y)
    if op == "truncdiv":
        return quotient
    if op == "truncmod":
        return rest
    opposite = tirx.Or(
        tirx.And(tirx.LT(rest, number(0)), tirx.LT(number(0), y)),
        tirx.And(tirx.LT(number(0), rest), tirx.LT(y, number(0))),
    )
    if op == "floordiv":
        return tirx.Sub(quotient, tirx.Select(opposite, number(1), number(0)))
    return tirx.Add(rest, tirx.Select(opposite, y, number(0)))


def _integer_power(x: Prim, y: Prim, signed: bool, bits: int, number: Callable[[int], Prim], bind: Bind) -> Prim:
    """x to the power of y by repeated squaring; a negative exponent gives the truncated reciprocal."""
    result = number(1)
    square = x
    scalar = y.value if isinstance(y, tirx.Broadcast) else y
    literal_exponent = int(scalar.value) if isinstance(scalar, tirx.IntImm) else None
    used = bits if literal_exponent is None else max(literal_exponent.bit_length(), 1)
    for bit in range(used):
        if literal_exponent is None:
            set_ = tirx.NE(tirx.bitwise_and(tirx.shift_right(y, number(bit)), number(1)), number(0))
            result = bind(tirx.Select(set_, tirx.Mul(result, square), result))
        elif literal_exponent > 0 and literal_exponent >> bit & 1:
            result = bind(tirx.Mul(result, square))
        if bit + 1 < used:
            square = bind(tirx.Mul(square, square))
    if not signed or (literal_exponent is not None and literal_exponent >= 0):
        return result
    odd = tirx.NE(tirx.bitwise_and(y, number(1)), number(0))
    of_minus = tirx.Select(odd, x, number(1))
    reciprocal = tirx.Select(tirx.EQ(x, number(-1)), of_minus, number(0))
    reciprocal = tirx.Select(tirx.EQ(x, number(1)), number(1), reciprocal)
    return tirx.Select(tirx.LT(y, number(0)), reciprocal, result)
