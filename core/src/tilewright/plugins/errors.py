"""Errors about plugins and the names they register."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tilewright.errors import InputError


class PluginError(InputError):
    """A plugin is missing, broken or in conflict with another."""


class UnknownNameError(InputError):
    """A name that nothing registered or declared."""


def unknown_name(what: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownNameError:
    """The error for `name`, which is no `what`; suggests the nearest of the `known` names.

    Args:
        what: the kind of thing looked for, such as `value of slot 'connect'`.
        remedy: a further sentence, put last.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        advice = f"Did you mean {near[0]!r}?"
    elif names:
        advice = f"Known: {', '.join(names)}."
    else:
        advice = "None is known."
    return UnknownNameError(f"There is no {what} named {name!r}.", f"{advice} {remedy}".rstrip())
