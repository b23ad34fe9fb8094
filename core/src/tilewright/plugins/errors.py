"""Errors about plugins and the names they register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tilewright.errors import InputError, TilewrightError, did_you_mean


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


def plugin_fault(what: str, text: str) -> PluginError:
    """The error for a fault in a plugin's code.

    Args:
        what: the hook or record, and its plugin with distribution and version.
        text: the cause, a sentence.
    """
    return PluginError(
        f"{what} is at fault. {text}",
        "Repair or uninstall that distribution, or choose another value; --debug shows where.",
    )


def attributed(function: Callable[..., Any], fault: Callable[[str], TilewrightError]) -> Callable[..., Any]:
    """`function` with every exception that it does not raise on purpose turned into the error that `fault` makes."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            raise fault(f"{type(error).__name__}: {error}.") from error

    return call
