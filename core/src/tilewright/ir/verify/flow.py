"""Law of the flow of values in a phase: what is read was written before, whatever was decided meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.program import Program
from tilewright.ir.verify.clocks import PhaseOrder
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.ordering import Access, Footprint, accesses, touch_same
from tilewright.ir.verify.unroll import Acting, Call, Scope, call_of

WRITTEN = "a value is written before it is read, and every output is written"

Writers = Mapping[Call, Mapping[range, Sequence[int]]]
"""Of a value: for each call that writes it, for each of its runs of tasks, the events."""


def check_flow(
    program: Program, order: PhaseOrder, written: frozenset[str], place: Place, footprint: Footprint
) -> frozenset[str]:
    """Refuses a read before all tasks of some call that writes the value have run, unless it was written before.

    Returns:
        what is written after the phase.
    """
    writers: dict[str, dict[Call, dict[range, list[int]]]] = {}
    readers: dict[Call, list[int]] = {}
    touched: dict[Call, list[Access]] = {}
    for i, event in enumerate(order.events):
        if not isinstance(event.item, Acting) or not event.tasks:
            continue
        call = call_of(event.item)
        if call not in touched:
            touched[call] = accesses(program, event.item)
        readers.setdefault(call, []).append(i)
        for access in touched[call]:
            if access.write:
                writers.setdefault(access.value, {}).setdefault(call, {}).setdefault(event.tasks, []).append(i)
    for call, reading in readers.items():
        for access in touched[call]:
            if access.write or access.value in written:
                continue
            found = _Found(program, order, access, writers.get(access.value, {}), touched, footprint)
            if not found.writers:
                raise place.broken(WRITTEN, f"{access.value!r} is read by {call} and never written before")
            if found.plainly(reading):
                continue  # the common case, at once; else one by one
            for i in reading:
                if not found.before(i, (order.events[i].scope,)):
                    there = place.at(f"{call} on unit {order.events[i].unit}")
                    *_, last = found.writers
                    raise there.broken(WRITTEN, f"{access.value!r} is read before {last} has written all of it")
    every = {name: _Found(program, order, None, calls, touched, footprint) for name, calls in writers.items()}
    return written | {name for name, found in every.items() if found.written(((),))}


@attrs.frozen
class _Found:
    """The writers of a value that is read, or of one that is looked at after the phase (`access` is None)."""

    program: Program
    order: PhaseOrder
    access: Access | None
    writers: Writers
    touched: Mapping[Call, Sequence[Access]]
    footprint: Footprint

    def plainly(self, reading: Sequence[int]) -> bool:
        """Whether all writers run in any case, and before all readers."""
        nodes = [x for runs in self.writers.values() for found in runs.values() for x in found]
        assert self.access is not None
        shared = self.program.storage.buffers[self.access.placement.buffer].owner != "unit"
        plain = not any(self.order.events[x].scope for x in nodes)
        return shared and plain and self.order.all_before(nodes, reading)

    def before(self, reader: int, known: tuple[Scope, ...]) -> bool:
        """Whether the value is whole when an event reads it.

        Args:
            known: what was decided by then.
        """
        for call, runs in self.writers.items():
            if all(self._wrote(call, run, nodes, reader, known) for run, nodes in runs.items()):
                return True
        return any(all(self.before(reader, (*known, x)) for x in sides) for sides in self._branches(known))

    def written(self, known: tuple[Scope, ...]) -> bool:
        """Whether the value is whole after the phase."""
        if any(all(any(self._runs(x, known) for x in n) for n in runs.values()) for runs in self.writers.values()):
            return True
        return any(all(self.written((*known, x)) for x in sides) for sides in self._branches(known))

    def _branches(self, known: tuple[Scope, ...]) -> list[tuple[Scope, Scope]]:
        """Branches of which both sides write, and which side was taken is not known."""
        nodes = (x for runs in self.writers.values() for found in runs.values() for x in found)
        scopes = {self.order.events[x].scope for x in nodes}
        cut = {scope[: i + 1] for scope in scopes for i in range(len(scope))}
        pairs = [((*x[:-1], (x[-1][0], 0)), (*x[:-1], (x[-1][0], 1))) for x in cut if x[-1][1] == 1]
        reached = [x for x in pairs if x[0] in cut and any(_begins(k, x[0][:-1]) for k in known)]
        return [x for x in reached if not any(_begins(k, side) for k in known for side in x)]

    def _runs(self, node: int, known: tuple[Scope, ...]) -> bool:
        return any(_begins(x, self.order.events[node].scope) for x in known)

    def _wrote(self, call: Call, run: range, nodes: Sequence[int], reader: int, known: tuple[Scope, ...]) -> bool:
        """Whether a run of tasks is over when an event reads the value, or writes nothing that it reads."""
        assert self.access is not None
        order, reading = self.order, self.order.events[reader]
        own = self.program.storage.buffers[self.access.placement.buffer].owner == "unit"
        for x in nodes:
            here = not own or order.events[x].unit == reading.unit
            if here and self._runs(x, known) and order.before(x, reader):
                return True
        write = next(x for x in self.touched[call] if x.write and x.value == self.access.value)
        assert isinstance(reading.item, Acting)
        mine, theirs = (call_of(reading.item), self.access, reading), (call, write, order.events[nodes[0]])
        return not touch_same(self.program, mine, theirs, self.footprint)


def _begins(scope: Scope, with_: Scope) -> bool:
    return scope[: len(with_)] == with_
