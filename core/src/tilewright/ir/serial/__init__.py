"""JSON of the stored forms and of decisions: structured, versioned, read back equal. It is also the replay format.

A document is `{"format": CLASS, "version": 1, "data": …}`. Instances are written field by field; where a field may
hold one of several classes, `"is"` names which. Fields that have their default are left out. Nothing is pickled, and
no class is looked up by a name from the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import cattrs

from tilewright.ir.module import Constant
from tilewright.ir.serial.convert import CONVERTER, GIVEN
from tilewright.ir.serial.exprs import SerialError, dump_expr, load_expr

VERSION = 1
T = TypeVar("T")

__all__ = ["VERSION", "SerialError", "dump", "dump_all", "dump_expr", "load", "load_all", "load_expr"]


def dump(subject: Any) -> str:
    """The document that holds an instance of an attrs class (Group, Cover, TileChoice, Program, Decision, …).

    Raises:
        SerialError: a field holds something that JSON has no form for here.
    """
    return _document(type(subject).__name__, CONVERTER.unstructure(subject, type(subject)))


def dump_all(subjects: Iterable[Any], cls: type) -> str:
    """The document that holds a list of instances of `cls`. Raises SerialError."""
    return _document(f"{cls.__name__}[]", [CONVERTER.unstructure(x, cls) for x in subjects])


def load(text: str, cls: type[T], constants: Mapping[str, Constant] | None = None) -> T:
    """The instance of `cls` that `text` holds.

    Args:
        constants: contents of the constants that the text names by digest, by digest.

    Raises:
        SerialError: naming the place in the document and what was wrong there.
    """
    found: T = _structure(_data(text, cls.__name__), cls, constants)
    return found


def load_all(text: str, cls: type[T], constants: Mapping[str, Constant] | None = None) -> tuple[T, ...]:
    """The instances of `cls` that `dump_all` wrote. Arguments and errors as for `load`."""
    found: tuple[T, ...] = _structure(_data(text, f"{cls.__name__}[]"), tuple[cls, ...], constants)  # type: ignore[valid-type]
    return found


def _document(form: str, data: Any) -> str:
    return json.dumps({"format": form, "version": VERSION, "data": data}, indent=1, allow_nan=False) + "\n"


def _data(text: str, form: str) -> Any:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise SerialError(f"The document is not JSON: {error}.") from None
    if not isinstance(document, dict) or document.get("format") != form:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise SerialError(f"The document should be of format {form!r}, but it is of format {found!r}.")
    if document.get("version") != VERSION:
        raise SerialError(
            f"The document is of version {document.get('version')!r}; this release reads version {VERSION}.",
            "Write it again with this release.",
        )
    extra = sorted(document.keys() - {"format", "version", "data"})
    if extra or "data" not in document:
        raise SerialError(f"The document needs the fields format, version and data, found {sorted(document)}.")
    return document["data"]


def _structure(data: Any, cls: Any, constants: Mapping[str, Constant] | None) -> Any:
    token = GIVEN.set(constants or {})
    try:
        return CONVERTER.structure(data, cls)
    except (cattrs.BaseValidationError, SerialError, ValueError, TypeError) as error:
        problems = cattrs.transform_error(error, path="data", format_exception=_describe)
        raise SerialError(f"The document does not fit: {'; '.join(problems)}.") from None
    finally:
        GIVEN.reset(token)


def _describe(error: BaseException, wanted: type | None) -> str:
    match error:
        case SerialError():
            return error.message
        case KeyError():
            return f"field {error} is missing"
        case cattrs.ForbiddenExtraKeysError():
            return f"unknown fields {sorted(error.extra_fields)}"
        case _:
            return f"{type(error).__name__}: {error}"
