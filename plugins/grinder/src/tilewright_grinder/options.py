"""The table `[options.grinder]` of a configuration."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from attrs.validators import and_, deep_mapping, ge, in_, instance_of, le, optional

from tilewright_grinder.placement.forks import MOST_LEVELS

_WHEN = ("auto", "always", "never")
LEVELS = ("host", "graph", "grid", "block")
"""Where control flow may run: on the host, in the device's graph of launches, over all units of a launch, in one unit.
"""


def _seconds(given: object) -> object:
    return float(given) if isinstance(given, int) and not isinstance(given, bool) else given


@attrs.frozen
class GrinderOptions:
    """How far control flow is rewritten, and where what is left of it runs.

    Args:
        inline: operators up to which the calls of a function may come when its body stands in their places.
        unroll: operators up to which a loop of a known number of trips may come when it is written out.
        factor: trips of a remaining loop that become one trip; 1 leaves loops as they are.
        branch: seconds that a branch on data costs beside what it runs; by default the device's.
        taken: how probable the first side of a branch is.
        small: elements up to which an operator at the start of a branch may have tensors and be moved before it.
        wavefront: whether recurrences that follow each other become one loop: "auto" where that is predicted to
            save time when independent operators run side by side, "always", "never".
        level: the level of every loop and branch, as far as it is possible there; "auto": by predicted cost.
        levels: the level of single loops and branches, by their names in the decision record.
        trips: that a loop is assumed to make where nothing says how many.
        calls: that a function is assumed to make of itself, and of those that call each other with it, in all.
        forks: levels of calls that need nothing of each other and run side by side, each on a part of a launch's units,
            as far as these go: "auto" as many as are predicted to be fastest, 0: such calls run one after another.
        lead: whether unit 0 alone takes control of launches that make calls, and tells the others what to do: "auto"
            where that is predicted to be faster than that all units take it together, "always", "never". Calls run
            side by side only in such launches.
        gain: the least share of the time at host level that another level must save.
    """

    inline: int = attrs.field(default=200, validator=[instance_of(int), ge(0)])
    unroll: int = attrs.field(default=64, validator=[instance_of(int), ge(0)])
    factor: int = attrs.field(default=1, validator=[instance_of(int), ge(1)])
    branch: float | None = attrs.field(default=None, converter=_seconds, validator=optional(ge(0.0)))
    taken: float = attrs.field(default=0.5, converter=float, validator=and_(ge(0.0), le(1.0)))
    small: int = attrs.field(default=128, validator=[instance_of(int), ge(0)])
    wavefront: str = attrs.field(default="auto", validator=in_(_WHEN))
    level: str = attrs.field(default="auto", validator=in_(("auto", *LEVELS)))
    levels: Mapping[str, str] = attrs.field(factory=dict, validator=deep_mapping(instance_of(str), in_(LEVELS)))
    trips: int = attrs.field(default=32, validator=[instance_of(int), ge(0)])
    calls: int = attrs.field(default=32, validator=[instance_of(int), ge(1)])
    forks: int | str = attrs.field(default="auto", validator=in_(("auto", *range(MOST_LEVELS + 1))))
    lead: str = attrs.field(default="auto", validator=in_(_WHEN))
    gain: float = attrs.field(default=0.03, converter=float)
