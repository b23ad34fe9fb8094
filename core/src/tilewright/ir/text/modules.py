"""Text of the first stored form: modules and functions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np

from tilewright.ir.expr import const
from tilewright.ir.module import DEPTH, Constant, Function, Module
from tilewright.ir.text.exprs import print_expr
from tilewright.ir.text.names import quote
from tilewright.ir.text.ops import indent, print_type, region_lines

INLINE_ELEMENTS = 16  # constants up to this size are written out


def print_module(module: Module, contents: bool = False) -> str:
    """The module, symbols and constants first.

    Args:
        contents: whether large constants are written out, in base64, or only named by the digest of their contents.
    """
    return "\n".join(_module_lines(module, contents)) + "\n"


def print_function(function: Function) -> str:
    """The function with its operators."""
    return "\n".join(region_lines(function.body, f"func {quote(function.name)}"))


def _module_lines(module: Module, contents: bool) -> Iterator[str]:
    yield f"module {quote(module.entry)} {{"
    for what, names in (("inputs", module.input_names), ("outputs", module.output_names)):
        if names:
            yield f"  {what} {', '.join(json.dumps(x) for x in names)}"
    if module.depth != DEPTH:
        yield f"  depth {module.depth}"
    for name, length in module.lengths.items():
        yield f"  length {json.dumps(name)} by {json.dumps(length)}"
    for symbol in module.symbols:
        yield f"  symbol {quote(symbol.name)} in [{symbol.lower}, {symbol.upper}]"
    for name, constant in module.constants.items():
        yield f"  const {quote(name)}: {print_constant(constant, contents)}"
    for function in module.functions.values():
        yield from indent(region_lines(function.body, f"func {quote(function.name)}"))
    yield "}"


def print_constant(constant: Constant, contents: bool = False) -> str:
    """Type and contents, inline when small, otherwise by digest or, with `contents`, in base64."""
    data, dtype = constant.data, constant.dtype
    shown = print_type(dtype, constant.value("").shape)
    if contents and (data.size > INLINE_ELEMENTS or _odd_nan(constant)):
        return f'{shown} = bytes "{base64.b64encode(np.ascontiguousarray(data).tobytes()).decode("ascii")}"'
    if data.size > INLINE_ELEMENTS or _odd_nan(constant):
        return f'{shown} = digest "{constant.digest}"'
    elements = (print_expr(const(x.item(), dtype), dtype) for x in np.ravel(data))
    return f"{shown} = [{', '.join(elements)}]"


def _odd_nan(constant: Constant) -> bool:
    """Whether some NaN has other bits than the one that the text `nan` reads back as."""
    if constant.dtype not in ("float64", "float32", "float16", "bfloat16"):
        return False
    plain = np.asarray(float("nan"), constant.data.dtype).tobytes()
    return any(x.tobytes() != plain for x in np.ravel(constant.data) if x != x)
