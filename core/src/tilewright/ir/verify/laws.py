"""How a verifier refuses: the law, the form and the place, and what was found there."""

from __future__ import annotations

import attrs

from tilewright.errors import VerifyError


@attrs.frozen
class Place:
    """Where something stands in a form, outermost first: `module, function main, tensor conv1, read 0`."""

    form: str
    parts: tuple[str, ...] = ()

    def at(self, part: str) -> Place:
        """A place inside this one."""
        return Place(self.form, (*self.parts, part))

    def __str__(self) -> str:
        return ", ".join((self.form, *self.parts))

    def broken(self, law: str, found: str) -> VerifyError:
        """The error that says that `law` does not hold here."""
        return VerifyError(f"{self}: {found}. Law: {law}.")
