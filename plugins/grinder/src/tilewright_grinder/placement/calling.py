"""Trials of what launches call in place of functions that call each other: for units of one size after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import attrs

from tilewright.ir.group import ControlItem, Cover
from tilewright.ir.program import Envelope, HostStep, Part
from tilewright.ir.subgrids import Subgrids
from tilewright.planning.requests import Context, Request
from tilewright.planning.session import Session
from tilewright_grinder.options import GrinderOptions
from tilewright_grinder.placement.forks import MOST_LEVELS, Spread, possible, widths
from tilewright_grinder.placement.lift import Called, Lifter, Refused
from tilewright_grinder.placement.limits import NoRoomError
from tilewright_grinder.placement.predict import Predictor, meeting_seconds
from tilewright_grinder.placement.recursion import Recursion, procedures, region_bytes


class Placing(Protocol):
    """What places the control flow of one function (`control_place.GrinderPlacer`)."""

    cover: Cover

    def begin(self, threads: int) -> None: ...

    def steps(self, cover: Cover, request: Request) -> list[HostStep]: ...

    def rooms(self, steps: Sequence[HostStep], within: Sequence[str] = ()) -> tuple[int, ...]: ...

    def lifter(
        self, name: str, steps: Sequence[HostStep], predictor: Predictor, placed: dict[str, str], apart: bool = False
    ) -> Lifter: ...

    def predictor(self) -> Predictor: ...

    def asked(self, name: str) -> str: ...


@attrs.frozen
class Trials:
    """The ways to run some functions that have been worked out.

    Args:
        placers: of each function.
        found: the best at each level so far.
        refused: why there is none, or none of a kind, at a level.
    """

    placers: Mapping[str, Placing]
    session: Session
    options: GrinderOptions
    found: dict[str, Recursion] = attrs.field(factory=dict, init=False)
    refused: dict[str, str] = attrs.field(factory=dict, init=False)

    def attempt_all(self) -> None:
        """Works out what launches call, for all sizes of units that there may be."""
        if self.session.device.kind == "cpu":
            self._refuse("on a CPU calls are steps of the host program")
            return
        for threads in self._rooms():
            self.attempt(threads)

    def attempt(self, threads: int) -> None:
        """Works out what launches call whose units have so many threads; keeps what is faster than before."""
        bodies: dict[str, list[HostStep]] = {}
        for name, placer in self.placers.items():
            placer.begin(threads)
            try:
                bodies[name] = placer.steps(placer.cover, self._request(name, threads))
            except NoRoomError as error:
                self._refuse(str(error))
                return
            fixed = [x.name for x in inside(placer.cover) if placer.asked(x.name) == "host"]
            if fixed:
                self._refuse(f"{fixed[0]}, which is inside, is kept on the host")
                return
        for level, apart in (("block", False), ("grid", False), ("grid", True)):
            self._attempt_at(level, apart, bodies, threads)

    def _attempt_at(self, level: str, apart: bool, bodies: Mapping[str, Sequence[HostStep]], threads: int) -> None:
        """One level, of all functions.

        Args:
            apart: whether calls of forks may run side by side.
        """
        placed: dict[str, str] = {}
        lifters = {x: y.lifter("", bodies[x], y.predictor(), placed, apart) for x, y in self.placers.items()}
        made = procedures(bodies, lifters, self.session, level == "block", self._levels if apart else 0)
        if isinstance(made, Refused):
            self.refused[level] = made.why
            return
        parts, called = made
        units = max(x.units for x in called.values())
        meeting = meeting_seconds(self.session.device)
        for led, how in self._ways(level, apart, parts, units, lifters):
            seconds = Spread(how, units, self._seconds_of(parts, called, led), meeting).seconds(self.options.calls)
            with_it = {x: attrs.evolve(y, led=led, subgrids=how) for x, y in called.items()}
            new = Recursion(level, {level: seconds}, {}, parts, with_it, placed, threads)
            self.found[level] = min((self.found.get(level, new), new), key=self._rank)

    @property
    def _levels(self) -> int:
        """Forks inside each other whose calls run side by side, at most."""
        return MOST_LEVELS if self.options.forks == "auto" else int(self.options.forks)

    def _rooms(self) -> tuple[int, ...]:
        """Numbers of threads that units may have, as `Placing.rooms`, for all functions together."""
        rooms: tuple[int, ...] = (0,)
        for name, placer in self.placers.items():
            placer.begin(0)
            steps = placer.steps(placer.cover, self._request(name))
            rooms = max(rooms, placer.rooms(steps, tuple(self.placers)), key=len)
        return rooms

    def _request(self, function: str, threads: int = 0) -> Request:
        limit = Envelope(self.session.device.units, threads) if threads else None
        return Request(self.session, limit, Context(1, "grid"), function=function)

    def _refuse(self, why: str) -> None:
        self.refused.update(dict.fromkeys(("block", "grid"), why))

    def _rank(self, made: Recursion) -> tuple[bool, float]:
        """What comes first among ways at a level: forks that are asked for, then what is faster."""
        plain = not any(x.subgrids.levels for x in made.called.values())
        return plain and self.options.forks != "auto", made.seconds[made.level]

    def _ways(
        self, level: str, apart: bool, parts: Mapping[str, Sequence[Part]], units: int, lifters: Mapping[str, Lifter]
    ) -> list[tuple[bool, Subgrids]]:
        """Whether unit 0 leads, and which forks run their calls side by side: what is to be priced."""
        leads = {"auto": (False, True), "always": (True,), "never": (False,)}[self.options.lead]
        if not apart:
            return [(led, Subgrids()) for led in (leads if level == "grid" else (False,))]
        size = region_bytes(parts, lifters, self.session)
        found = [x for x in possible(widths(parts.values()), units, size) if x.levels <= self._levels]
        return [(True, x) for x in (found if self.options.forks == "auto" else found[-1:]) if True in leads]

    def _seconds_of(
        self, parts: Mapping[str, Sequence[Part]], called: Mapping[str, Called], led: bool
    ) -> Callable[[int, bool], float]:
        """What a call takes, without those that it makes: the mean of all functions."""

        def seconds(on: int, apart: bool) -> float:
            each = [self.placers[x].predictor().parts(y, called[x].units, led, on, apart) for x, y in parts.items()]
            return sum(each) / len(each)

        return seconds


def inside(*covers: Cover) -> Iterator[ControlItem]:
    """The loops, branches and calls in some covers, outer ones first."""
    for item in (x for cover in covers for x in cover.items):
        if isinstance(item, ControlItem):
            yield item
            yield from inside(*item.bodies)
