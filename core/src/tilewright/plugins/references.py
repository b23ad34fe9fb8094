"""References to code that are resolved only when used, so that importing a plugin stays cheap."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from attrs import Attribute

Reference = str | Callable[..., Any]
"""`"package.module:attribute"`, or the callable itself."""

_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_reference(instance: object, attribute: Attribute[Any], value: object) -> None:
    """attrs validator: `value` is callable or a string `module:attribute`."""
    if callable(value) or (isinstance(value, str) and _FORM.fullmatch(value)):
        return
    raise ValueError(
        f"{type(instance).__name__}.{attribute.name} needs a callable or a string "
        f"'package.module:attribute', not {value!r}."
    )


def resolve(reference: Reference) -> Any:
    """The object that `reference` names; imports its module if it is a string.

    Raises whatever the import raises, and AttributeError if the module lacks the attribute: the registry,
    which knows the provider, turns both into a plugin error.
    """
    if not isinstance(reference, str):
        return reference
    module, _, path = reference.partition(":")
    value: Any = import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return value
