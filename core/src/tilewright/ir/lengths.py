"""Outputs of which data decide how many rows count.

Such an output has as many rows as there can be, and another output holds the number of those that count. What a user
gets is the one, cut to the length that the other says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def delivered_names(names: Sequence[str], lengths: Mapping[str, str]) -> tuple[str, ...]:
    """The outputs that a user gets.

    Args:
        names: of all outputs.
        lengths: by the name of an output, that of its length.
    """
    hidden = set(lengths.values())
    return tuple(name for name in names if name not in hidden)


def delivered(names: Sequence[str], lengths: Mapping[str, str], outputs: Sequence[Any]) -> list[Any]:
    """The arrays that a user gets, in the order of `delivered_names`."""
    if not lengths:
        return list(outputs)
    found = dict(zip(names, outputs, strict=True))
    for name, length in lengths.items():
        found[name] = found[name][: int(found[length])]
    return [found[name] for name in delivered_names(names, lengths)]
