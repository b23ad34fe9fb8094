"""Names and literals as the text writes them. What a model calls its values never reaches the text unescaped."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable

from tilewright.ir import dtypes
from tilewright.ir.expr import OPS, Const, const

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")

KEYWORDS = frozenset(
    [
        *("module", "symbol", "in", "const", "digest", "func", "return", "inputs", "outputs"),
        *("tensor", "scan", "routine", "onnx", "loop", "if", "else", "then", "call"),
        *("for", "over", "reduce", "inplace", "body", "init", "step", "result", "write", "update", "base", "ordered"),
        *("by", "trip", "while", "carry", "parallel", "workspace", "opset", "combiner"),
        *("and", "or", "not", "inf", "nan", "true", "false", "none"),
    ]
)
RESERVED = KEYWORDS | frozenset(OPS) | frozenset(dtypes.STORED)


def quote(name: str) -> str:
    """`name` as it is when it is a plain identifier, otherwise in double quotes with JSON's escapes (ASCII only)."""
    return name if _PLAIN.fullmatch(name) and name not in RESERVED else json.dumps(name)


def names(given: Iterable[str]) -> str:
    """The names, separated by commas."""
    return ", ".join(quote(x) for x in given)


@functools.lru_cache(maxsize=4096)
def literal(node: Const) -> str:
    """The shortest text that reads back as the same value of the same dtype."""
    if node.dtype == "bool":
        return "true" if node.value else "false"
    if not isinstance(node.value, float):
        return str(node.value)
    if math.isnan(node.value):
        return "nan"
    if math.isinf(node.value):
        return "inf" if node.value > 0 else "-inf"
    for digits in range(1, 18):
        text = f"{node.value:.{digits}g}"
        if const(float(text), node.dtype) == node:
            break
    return text if re.search(r"[.e]", text) else f"{text}.0"


def default_dtype(text: str) -> str:
    """The dtype of a literal written as `text` where nothing else says one."""
    if text in ("true", "false"):
        return "bool"
    return "float32" if re.search(r"[.e]|inf|nan", text) else "int64"
