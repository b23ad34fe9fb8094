"""Errors about plugins and the names they register."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.errors import InputError, did_you_mean


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
    return UnknownNameError(
        f"There is no {what} named {name!r}.", f"{did_you_mean(name, sorted(known))} {remedy}".rstrip()
    )
