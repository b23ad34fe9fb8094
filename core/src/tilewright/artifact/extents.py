"""Extents in a manifest: integers, names of symbols, and expressions over symbols as text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import Interval, bounds_of
from tilewright.ir.expr import Expr, Extent, Var, as_expr, number_of, variables
from tilewright.ir.text import ParseError, parse_expr, print_expr

Written = int | str


def written(extent: Extent) -> Written:
    """An extent as the manifest has it."""
    return print_expr(extent) if isinstance(extent, Expr) else extent


@lru_cache
def read(extent: Written) -> Expr:
    """The expression of an extent. Raises ValueError when the text is none."""
    if isinstance(extent, int):
        return as_expr(extent)
    if extent.isidentifier():
        return Var(extent)
    try:
        found = parse_expr(extent)
    except ParseError as error:
        raise ValueError(f"the extent {extent!r} is no expression") from error
    if found.dtype != "int64":
        raise ValueError(f"the extent {extent!r} is no number")
    return found


def symbols_in(shape: tuple[Written, ...]) -> frozenset[str]:
    """The symbols that a shape depends on. Raises ValueError when an extent is no expression."""
    return variables(*map(read, shape))


def value_of(extent: Written, symbols: Mapping[str, int]) -> int:
    """The extent for values of the symbols."""
    if isinstance(extent, int):
        return extent
    return symbols[extent] if extent in symbols else int(evaluate(read(extent), symbols))


def most_elements(shape: tuple[Written, ...], symbols: Mapping[str, tuple[int, int]]) -> int:
    """Elements of the shape by the bounds of the symbols."""
    bounds = {name: Interval(*ends) for name, ends in symbols.items()}
    return bounds_of(number_of(map(read, shape)), bounds).high
