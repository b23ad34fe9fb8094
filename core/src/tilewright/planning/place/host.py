"""`control_place = "host"`: every loop, branch and call runs on the host, around launches.

A loop's state lives in the place of the loop's output. The initial value is copied there, and the result of a trip
after it; where nothing reads the state any more once the result is being written, the result is written in its place
and needs no copy; a larger state for which that is not so has two places by turns (`double.py`). A branch writes its
results in the place of the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tilewright.ir.expr import Const, Var, const
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Call, If, Loop, Value
from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostSet, HostStep
from tilewright.planning.place.double import SMALLEST, doubled
from tilewright.planning.requests import Place, Planned, Request
from tilewright.planning.session import Session
from tilewright.planning.storage import byte_size


def make() -> Place:
    """The service."""

    def place(cover: Cover, request: Request) -> tuple[HostStep, ...]:
        return tuple(Placer(request.session).steps(cover, request))

    return place


@attrs.define
class Placer:
    """Makes host steps of covers. Another placer may change what becomes of a loop, a branch or a call (`control`), and
    which kernel runs a group (`planned`).

    Asked again about the same, it answers the same: what it has found out about where values stand stays true.
    """

    session: Session

    def steps(self, cover: Cover, request: Request) -> list[HostStep]:
        """The host steps of a covered region."""
        steps: list[HostStep] = []
        straight: list[Planned] = []
        for item in cover.items:
            if isinstance(item, Group):
                straight.append(self.planned(item, request))
                continue
            steps += self.session.schedule(straight, request)
            straight = []
            steps += self.control(item, request)
        steps += self.session.schedule(straight, request)
        return steps

    def planned(self, group: Group, request: Request) -> Planned:
        """A group with the kernel that runs it."""
        return self.session.plan(group)

    def control(self, item: ControlItem, request: Request) -> list[HostStep]:
        """The steps that a loop, a branch or a call becomes."""
        self._record(item)
        return self.around(item, request)

    def around(self, item: ControlItem, request: Request) -> list[HostStep]:
        """Steps of the host around what the bodies of a loop, a branch or a call become."""
        match item.op:
            case Loop() as loop:
                return list(self._loop(loop, item.bodies[0], request))
            case If() as branch:
                return list(self._if(branch, item.bodies[0], item.bodies[1], request))
            case call:
                return self.session.functions.steps(call, self.session.place_of)

    def _record(self, item: ControlItem) -> None:
        op = item.op
        known = isinstance(op, Loop) and isinstance(op.count, Const)
        costs = [self._seconds(item)] if known or isinstance(op, If) else []
        runs = "a loop" if isinstance(op, Loop) else "a branch"
        what = f"{runs} of the host program around the launches of its body"
        if isinstance(op, Call):
            what = f"the host program calls {op.function}, whose values have a frame for each call that is active"
        why = f"{what}; this placer knows no other level"
        self.session.decide("control_place", item.name, {"level": "host"}, costs=costs, why=why)

    def _seconds(self, item: Group | ControlItem) -> float:
        """Predicted seconds: of all trips, of the slower branch; a loop of unknown length counts as one trip."""
        if isinstance(item, Group):
            return self.session.propose(item)[0].cost
        each = [sum(map(self._seconds, body.items)) for body in item.bodies]
        trips = int(item.op.count.value) if isinstance(item.op, Loop) and isinstance(item.op.count, Const) else 1
        return trips * max(each, default=0.0)

    def _loop(self, op: Loop, body: Cover, request: Request) -> Iterator[HostStep]:
        number, going, *states = body.region.params
        goes_on, *results = body.region.results
        after, rows = results[: len(states)], results[len(states) :]
        used = {self._place(x) for item in body.items for x in _reads(item)}
        for state, output, start in zip(states, op.outputs, op.carried, strict=False):
            self._alias(state, output)
            yield from self._copy(start, output)
        condition = ""
        if goes_on != going:
            condition = self._place(going)
            yield HostSet(condition, const(1)) if op.condition is None else self._copied(op.condition, going)
            after, states = [goes_on, *after], [going, *states]
        else:
            if op.condition is not None:
                condition = self._place(op.condition)
            if self._place(going) in used:
                yield HostSet(self._place(going), const(1))
        for state, result in zip(states, after, strict=True):
            if self._overwrites(body, state, result):
                self._alias(result, state)
        inner: list[HostStep] = []
        if self._place(number) in used:
            inner.append(HostSet(self._place(number), Var(number.name)))
        trips = int(op.count.value) if isinstance(op.count, Const) else 1
        context = attrs.evolve(request.context, trips=request.context.trips * max(trips, 1))
        inner += self.steps(body, attrs.evolve(request, context=context))
        for result, output in zip(rows, op.outputs[len(op.carried) :], strict=True):
            inner.append(attrs.evolve(self._copied(result, output), row=Var(number.name)))
        limit = "" if op.trip is None else self._place(op.trip)
        made = {x.name for item in body.items for x in item.outputs}
        late = [x for x in zip(states, after, strict=True) if self._place(x[0]) != self._place(x[1])]
        kept = [(a, b) for a, b in late if a != going and b.name in made and self._place(b) == b.name]
        pairs = {self._place(a): b.name for a, b in kept}
        if len(set(pairs.values())) == len(kept) and self._pays(kept):
            copies = [step for a, b in late if (a, b) not in kept for step in self._copy(b, a)]
            turned = HostLoop(number.name, op.count, condition, (*inner, *copies), limit)
            turns = doubled(turned, pairs, self._twins(turned, body, pairs))
            if turns is not None:
                yield from turns
                return
        for state, result in late:
            inner += self._copy(result, state)
        yield HostLoop(number.name, op.count, condition, tuple(inner), limit)

    def _twins(self, loop: HostLoop, body: Cover, pairs: Mapping[str, str]) -> dict[str, str]:
        """Names of second places for the trip's number, and for what a trip makes that does not outlast it."""
        number = body.region.params[0].name
        made = {x.name for item in body.items for x in item.outputs if self._place(x) == x.name}
        lasting = {*pairs, *pairs.values(), loop.condition}
        twins = {x: f"{x}.odd.{loop.counter}" for x in sorted({*made, number} - lasting)}
        self.session.twins.update({twin: name for name, twin in twins.items()})
        return twins

    def _pays(self, late: Sequence[tuple[Value, Value]]) -> bool:
        """Whether it is worth a second body not to copy these states after each trip."""
        bounds = {x.name: x.interval for x in self.session.symbols}
        size = sum(byte_size(state, bounds) for state, _ in late)
        return bool(late) and (self.session.device.kind != "cpu" or size >= SMALLEST)

    def _if(self, op: If, then: Cover, orelse: Cover, request: Request) -> Iterator[HostStep]:
        branches: list[tuple[HostStep, ...]] = []
        for body in (then, orelse):
            made = {x.name for item in body.items for x in item.outputs}
            for result, output in zip(body.region.results, op.outputs, strict=True):
                if result.name in made and self._place(result) == result.name:
                    self._alias(result, output)
            steps = self.steps(body, request)
            for result, output in zip(body.region.results, op.outputs, strict=True):
                steps += self._copy(result, output)
            branches.append(tuple(steps))
        yield HostIf(self._place(op.condition), branches[0], branches[1])

    def _overwrites(self, body: Cover, state: Value, result: Value) -> bool:
        """Whether nothing in the body reads the state once its successor begins to be written."""
        place = self._place(result)
        writers = [i for i, item in enumerate(body.items) if any(self._place(x) == place for x in item.outputs)]
        if not writers or place != result.name:
            return False
        old = self._place(state)
        return not any(self._place(x) == old for item in body.items[writers[0] :] for x in _reads(item))

    def _place(self, value: Value) -> str:
        return self.session.place_of(value.name)

    def _alias(self, value: Value, other: Value) -> None:
        self.session.aliases[value.name] = self._place(other)

    def _copied(self, source: Value, target: Value) -> HostCopy:
        return HostCopy(self._place(source), self._place(target))

    def _copy(self, source: Value, target: Value) -> Iterator[HostStep]:
        """A copy, unless both are in one place."""
        copy = self._copied(source, target)
        if copy.source != copy.target:
            yield copy


def _reads(item: Group | ControlItem) -> Iterator[Value]:
    """Everything that an item reads, and what is inside it."""
    yield from item.inputs
    if isinstance(item, ControlItem):
        for body in item.bodies:
            yield from body.region.results
            for inner in body.items:
                yield from _reads(inner)
