"""Happens-before within a phase, as vector clocks.

What each unit does is laid out as a list of events. One event happens before another by program order, or because a
wait cannot pass before certain signals have come:

    A wait passes when its event has been signalled `target` times. The signals that can have come by the time the
    count first reaches the target are those that do not follow a wait on the same event with at least this target.
    If these, without a signal s and what follows s, are fewer than the target, then s came before the wait.

This is applied until nothing changes. It is exact for counters that are waited for in full, and for counters that grow
trip by trip (software barriers). An event's clock says how many events of each unit happen before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tilewright.ir.program import Signal, Wait
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.unroll import Event

MET = "every wait is met by signals that can come before it"

Numbers = npt.NDArray[np.int64]
Key = tuple[str, int]


class PhaseOrder:
    """The happens-before relation of one phase.

    Args:
        units: the events of each unit, in its order.
        counted: how often events were signalled in earlier phases of the launch.

    Attributes:
        events: all events, unit by unit.

    Raises:
        VerifyError: some wait is never met.
    """

    def __init__(
        self, units: Mapping[int, Sequence[Event]], place: Place, counted: Mapping[Key, int] | None = None
    ) -> None:
        self._counted = counted or {}
        self.events = [e for events in units.values() for e in events]
        self._place = place
        sizes = [len(x) for x in units.values()]
        self._unit: Numbers = np.repeat(np.arange(len(sizes)), sizes)
        self._at: Numbers = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.zeros(0, np.int64)
        self._first: Numbers = np.cumsum([0, *sizes])
        self._clocks = np.zeros((len(self.events), len(sizes)), np.int32)
        self._settle(self._run(units))

    def before(self, a: int, b: int) -> bool:
        """Whether event a happens before event b."""
        return bool(self._clocks[b, self._unit[a]] > self._at[a])

    def unordered(self, mine: Sequence[int], theirs: Sequence[int]) -> Numbers:
        """Pairs of positions in `mine` and `theirs` of events of different units that may happen in either order."""
        a, b = np.asarray(mine), np.asarray(theirs)
        apart = self._unit[a][:, None] != self._unit[b][None, :]
        return np.argwhere(apart & ~self._table(a, b) & ~self._table(b, a).T)

    def all_before(self, earlier: Sequence[int], later: Sequence[int]) -> bool:
        """Whether every event of the first happens before every one of the second."""
        return bool(self._table(np.asarray(earlier), np.asarray(later)).all())

    def span(self, events: Sequence[int]) -> tuple[Numbers, Numbers]:
        """By unit how many of its events happen before all of some events, and how many end with the last of them.

        All of one set happen before all of another where the second number of the first is nowhere above the first
        number of the second.
        """
        given = np.asarray(events)
        ends: Numbers = np.zeros(self._clocks.shape[1], np.int64)
        np.maximum.at(ends, self._unit[given], self._at[given] + 1)
        return self._clocks[given].min(axis=0).astype(np.int64), ends

    def _table(self, a: Numbers, b: Numbers) -> npt.NDArray[np.bool_]:
        """[i, j]: whether a[i] happens before b[j]."""
        found: npt.NDArray[np.bool_] = (self._clocks[b][:, self._unit[a]] > self._at[a]).T
        return found

    def _run(self, units: Mapping[int, Sequence[Event]]) -> list[int]:
        """The events in an order in which they can happen: the units go as far as they can by turns."""
        counts = dict(self._counted)
        names = list(units)
        lists = list(units.values())
        at = [0] * len(lists)
        order: list[int] = []
        stuck: dict[Key, list[int]] = {}
        ready = list(range(len(lists)))
        while ready:
            number = ready.pop()
            events = lists[number]
            while at[number] < len(events):
                event = events[at[number]]
                if isinstance(event.item, Wait) and counts.get(event.key, 0) < event.target:
                    stuck.setdefault(event.key, []).append(number)
                    break
                if isinstance(event.item, Signal):
                    counts[event.key] = counts.get(event.key, 0) + 1
                    ready += stuck.pop(event.key, [])
                order.append(int(self._first[number]) + at[number])
                at[number] += 1
        for number, events in enumerate(lists):
            if at[number] < len(events):
                event = events[at[number]]
                name, index = event.key
                found = f"{name}[{index}] is signalled {counts.get(event.key, 0)} of {event.target} times"
                raise self._place.at(f"unit {names[number]}").broken(MET, found)
        return order

    def _settle(self, order: Sequence[int]) -> None:
        """Fills the clocks, in an order in which the events can happen, until nothing changes."""
        signals: dict[Key, list[int]] = {}
        waits: dict[Key, list[tuple[int, int]]] = {}
        for i, event in enumerate(self.events):
            if isinstance(event.item, Signal):
                signals.setdefault(event.key, []).append(i)
            elif isinstance(event.item, Wait) and (target := self._target(event)) > 0:
                waits.setdefault(event.key, []).append((target, i))
        changed = True
        while changed:
            changed = False
            known: dict[tuple[Key, int], npt.NDArray[np.int32]] = {}
            for i in order:
                event, at, clock = self.events[i], self._at[i], self._clocks[i]
                if isinstance(event.item, Wait) and (target := self._target(event)) > 0:
                    met = known.get((event.key, target))
                    if met is None:
                        later = [w for t, w in waits[event.key] if t >= target]
                        met = self._met(target, later, signals.get(event.key, []))
                        known[event.key, target] = met
                    changed = changed or bool((met > clock).any())
                    np.maximum(clock, met, out=clock)
                if at:
                    np.maximum(clock, self._clocks[i - 1], out=clock)
                clock[self._unit[i]] = at

    def _target(self, event: Event) -> int:
        return event.target - self._counted.get(event.key, 0)

    def _met(self, target: int, later: Sequence[int], signals: Sequence[int]) -> npt.NDArray[np.int32]:
        """What is known once an event has counted to `target`; `later` are the waits for that or more."""
        given = np.asarray(signals)
        possible = given[~self._table(np.asarray(later), given).any(axis=0)]
        if len(possible) > target:
            follows = self._table(possible, possible)
            np.fill_diagonal(follows, True)
            possible = possible[(~follows).sum(axis=1) < target]
        if not len(possible):
            return np.zeros(self._clocks.shape[1], np.int32)
        met: npt.NDArray[np.int32] = self._clocks[possible].max(axis=0)
        np.maximum.at(met, self._unit[possible], (self._at[possible] + 1).astype(np.int32))
        return met
