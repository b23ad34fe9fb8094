"""Names of values and operators: unique, short and safe to print, whatever the model calls them."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_RESERVED = re.compile(r"t|[abiprs][0-9]+")  # axes, states and combiner arguments are called so
_LONGEST = 64


class Names:
    """Hands out unique identifiers that resemble the hints."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def reserve(self, name: str) -> bool:
        """Takes a name as it is; False when it is handed out already."""
        if name in self._next:
            return False
        self._next[name] = 1
        return True

    def fresh(self, hint: str) -> str:
        """An identifier `[A-Za-z_][A-Za-z0-9_]*` that was not handed out before."""
        base = _UNSAFE.sub("_", hint).strip("_")[-_LONGEST:].lstrip("_") or "v"
        if base[0].isdigit() or _RESERVED.fullmatch(base):
            base = f"v_{base}"
        name = base
        while name in self._next:
            number = self._next[base]
            self._next[base] = number + 1
            name = f"{base}_{number}"
        self._next[name] = 1
        return name
