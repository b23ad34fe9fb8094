"""The converter between instances of attrs classes and JSON values."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Union

import attrs
import cattrs
import numpy as np

from tilewright.ir.expr import Expr
from tilewright.ir.module import Constant
from tilewright.ir.serial.exprs import SerialError, dump_expr, dump_float, load_expr, load_float

GIVEN: ContextVar[Mapping[str, Constant]] = ContextVar("constants")
"""Contents of the constants that the document being read names by digest."""


def _is_choice(cls: Any) -> bool:
    """Whether a type is a union of several attrs classes."""
    if typing.get_origin(cls) not in (Union, types.UnionType):
        return False
    members = [x for x in typing.get_args(cls) if x is not type(None)]
    return len(members) > 1 and all(attrs.has(x) for x in members)


def _dump_member(subject: Any) -> Any:
    if subject is None:
        return None
    return {"is": type(subject).__name__, **CONVERTER.unstructure(subject, type(subject))}


def _load_member(data: Any, cls: Any) -> Any:
    members = {x.__name__: x for x in typing.get_args(cls)}
    if data is None and "NoneType" in members:
        return None
    if not isinstance(data, dict) or data.get("is") not in members:
        found = data.get("is") if isinstance(data, dict) else data
        raise SerialError(f'"is" should be one of {sorted(members)}, found {found!r}')
    return CONVERTER.structure({k: v for k, v in data.items() if k != "is"}, members[data["is"]])


def _dump_any(value: Any) -> Any:
    """A JSON value for the open fields (attributes, decisions); tuples and odd floats are marked."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            shown = dump_float(value)
            return shown if isinstance(shown, float) else {"$float": shown}
        case tuple():
            return {"$tuple": [_dump_any(x) for x in value]}
        case list():
            return [_dump_any(x) for x in value]
        case Mapping():
            if all(isinstance(x, str) and not x.startswith("$") for x in value):
                return {x: _dump_any(y) for x, y in value.items()}
    raise SerialError(f"{value!r} of type {type(value).__name__} cannot be written as JSON.")


def _load_any(data: Any) -> Any:
    if isinstance(data, list):
        return [_load_any(x) for x in data]
    if not isinstance(data, dict):
        return data
    marks = [x for x in data if x.startswith("$")]
    if not marks:
        return {x: _load_any(y) for x, y in data.items()}
    match data:
        case {"$tuple": [*items], **rest} if not rest:
            return tuple(_load_any(x) for x in items)
        case {"$float": ("inf" | "-inf" | "nan") as shown, **rest} if not rest:
            return float(shown)
    raise SerialError(f"unknown mark {marks[0]!r}")


def _dump_constant(constant: Constant) -> dict[str, Any]:
    return {"dtype": constant.dtype, "shape": list(constant.data.shape), "digest": constant.digest}


def _load_constant(data: Any, _: Any) -> Constant:
    if not isinstance(data, dict) or data.keys() != {"dtype", "shape", "digest"}:
        raise SerialError("a constant needs the fields dtype, shape and digest")
    found = GIVEN.get().get(data["digest"])
    if found is None:
        raise SerialError(f"the contents of the constant with digest {data['digest']!r} were not given")
    if _dump_constant(found) != data:
        shown = f"{found.dtype}{list(found.data.shape)}"
        raise SerialError(f"the constant given is {shown}, the document says {data['dtype']}{data['shape']}")
    return found


def _strict(cls: type) -> Callable[[Any, Any], Any]:
    def check(data: Any, _: Any) -> Any:
        if type(data) is not cls:
            raise SerialError(f"{cls.__name__} is needed, not {data!r}")
        return data

    return check


def _load_typed_expr(data: Any, cls: type[Expr]) -> Expr:
    found = load_expr(data)
    if not isinstance(found, cls):
        raise SerialError(f"a {cls.__name__} is needed, not {found!r}")
    return found


def _dump_int(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SerialError(f"an integer is needed, not {value!r} of type {type(value).__name__}.")
    return int(value)


def _make() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)

    def is_expr(cls: Any) -> bool:
        return inspect.isclass(cls) and issubclass(cls, Expr)

    converter.register_unstructure_hook_func(is_expr, dump_expr)
    converter.register_structure_hook_func(is_expr, _load_typed_expr)
    converter.register_unstructure_hook_func(_is_choice, _dump_member)
    converter.register_structure_hook_func(_is_choice, _load_member)
    converter.register_unstructure_hook_func(lambda cls: cls is Any, _dump_any)
    converter.register_structure_hook_func(lambda cls: cls is Any, lambda data, _: _load_any(data))
    converter.register_unstructure_hook(Constant, _dump_constant)
    converter.register_structure_hook(Constant, _load_constant)
    converter.register_unstructure_hook(float, dump_float)
    converter.register_structure_hook(float, lambda data, _: load_float(data))
    converter.register_unstructure_hook(int, _dump_int)
    converter.register_unstructure_hook(bool, bool)
    for cls in (int, str, bool):
        converter.register_structure_hook(cls, _strict(cls))
    return converter


CONVERTER = _make()
