"""Every error Tilewright raises on purpose: what was needed, what was found, what to do.

The command line maps the classes to exit codes: 1 mismatch, 2 input, 3 internal.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TilewrightError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what was needed and what was found, in one or two sentences.
        remedy: what the user can do about it, or an empty string.
    """

    exit_code = 3

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class InputError(TilewrightError):
    """The model, an option, a tensor or a file that the user gave cannot be used as it is."""

    exit_code = 2


class DamagedError(InputError):
    """A compiled program is not what its compiler wrote. The message is a clause, such as "it has no weight 'w'"."""


class UnsupportedError(InputError):
    """A model asks for something that Tilewright has no meaning or no code for."""


class SteeredError(UnsupportedError):
    """Shapes follow from the values of inputs, which are known when the program runs only.

    Args:
        inputs: those inputs.
    """

    def __init__(self, message: str, remedy: str, inputs: Sequence[str]) -> None:
        super().__init__(message, remedy)
        self.inputs = tuple(inputs)


class SymbolicError(UnsupportedError):
    """A fixed number is needed where an extent is symbolic."""


class MismatchError(TilewrightError):
    """A result differs from the reference by more than the tolerance."""

    exit_code = 1


class InternalError(TilewrightError):
    """A law of the compiler is broken; the fault is ours or a plugin's, never the user's."""


class VerifyError(InternalError):
    """A verifier refused an IR. The message names the law, the form and the place."""


def did_you_mean(name: str, known: Iterable[str], there_are: str = "Known") -> str:
    """A remedy for an unknown name: the near one of the `known`, or all of them.

    Args:
        there_are: the words before the list of all.
    """
    names = list(known)
    lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    if near:
        return f"Did you mean {lower[near[0]]!r}?"
    return f"{there_are}: {', '.join(map(repr, names)) or 'none'}."
