"""The paper's top K: choices are built and measured, and the quickest is taken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import attrs

from tilewright.errors import InputError
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.planning.session import Session
from tilewright.planning.trial import Failure, Samples

_SHOWN = 200
"""Characters of a reason that a line of `explain` shows."""


def measured(choices: Sequence[TileChoice], group: Group, session: Session) -> tuple[TileChoice, ...]:
    """The choices by their time, the quickest first.

    Each costs the median of its runs and says so. What could not be measured is left out, and the first one says why.

    Raises:
        InputError: not one of them could be measured.
    """
    results = list(zip(choices, session.measure(group, choices), strict=True))
    failed = [(choice, result.reason) for choice, result in results if isinstance(result, Failure)]
    timed = [(choice, result.median) for choice, result in results if isinstance(result, Samples)]
    if not timed:
        where = ", ".join(str(op.loc) for op in group.ops) or group.name
        raise InputError(
            f"[options.roller] measure needs measurements on {session.target}, and none of the {len(choices)} choices "
            f"for {where} could be measured here: {'; '.join(_reasons(failed))}",
            "Set measure = 0 to choose by the model, or compile on a machine with the device.",
        )
    found = [
        attrs.evolve(c, cost=x, why=f"measured {_micro(x)}, predicted {_micro(c.cost)}; {c.why}")
        for c, x in sorted(timed, key=lambda pair: pair[1])
    ]
    if failed:
        reasons = "; ".join(textwrap.shorten(x, _SHOWN, placeholder=" …") for x in _reasons(failed))
        left_out = f"{len(failed)} of {len(choices)} could not be measured: {reasons}"
        found[0] = attrs.evolve(found[0], why=f"{found[0].why}; {left_out}")
    return tuple(found)


def _reasons(failed: Sequence[tuple[TileChoice, str]]) -> list[str]:
    """Each reason once, after the choices that it holds for."""
    by_reason: dict[str, list[TileChoice]] = {}
    for choice, reason in failed:
        by_reason.setdefault(" ".join(reason.split()), []).append(choice)
    return [f"{_names(choices)}: {reason}" for reason, choices in by_reason.items()]


def _names(choices: Sequence[TileChoice]) -> str:
    first, *others = choices
    sizes = " ".join(f"{name}={size}" for name, size in first.params)
    return f"{first.recipe} {sizes}".rstrip() + (f" and {len(others)} more" if others else "")


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"
