"""The pool of weights: what several programs hold in common is stored once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import attrs

from tilewright.runtime.native import Weight


class Pool:
    """Collects the weights of programs and names them anew. Weights with equal keys become one.

    Attributes:
        weights: all that the section has to hold.
        digests: the keys of those that have one.
    """

    def __init__(self) -> None:
        self.weights: list[Weight] = []
        self.digests: dict[str, str] = {}
        self._names: set[str] = set()
        self._by_key: dict[str, str] = {}

    def add(self, weights: Sequence[Weight]) -> dict[str, str]:
        """Takes the weights of one program; what each of them is called in the pool."""
        return {weight.name: self._add(weight) for weight in weights}

    def _add(self, weight: Weight) -> str:
        known = self._by_key.get(weight.key) if weight.key else None
        if known is not None:
            return known
        name = self._fresh(weight.name)
        self.weights.append(attrs.evolve(weight, name=name))
        if weight.key:
            self._by_key[weight.key] = name
            self.digests[name] = weight.key
        return name

    def _fresh(self, name: str) -> str:
        base = name.lstrip("~_") or "weight"  # what begins so has a meaning of its own in the file
        found = next(x for x in (base if n == 0 else f"{base}_{n}" for n in count()) if x not in self._names)
        self._names.add(found)
        return found
