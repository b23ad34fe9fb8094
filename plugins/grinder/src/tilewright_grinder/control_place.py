"""`control_place = "grinder"`: each loop and branch runs at the level that is predicted to be the fastest.

In place of the paper's search by measuring, each level is worked out and predicted: around launches of the host, as a
node of the graph that stands for the program, as one launch whose units take control together, and as one launch of a
single unit. Inside a launch of the grid a loop or a branch is again the grid's or one unit's. So it is with functions
that call each other: the host runs them, or launches call them. What cannot be inside a launch or a graph stays on the
host, and the record says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tilewright.errors import InputError, InternalError, UnsupportedError
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Call, If, Loop, Value
from tilewright.ir.program import Envelope, HostIf, HostLoop, HostStep, Launch, Part, Step, calls, reads_back
from tilewright.ir.verify.graphs import FEATURE
from tilewright.planning.place.host import Placer
from tilewright.planning.record import shape_of
from tilewright.planning.requests import Context, Place, Planned, Request
from tilewright_grinder.options import GrinderOptions
from tilewright_grinder.placement.calling import Trials, inside
from tilewright_grinder.placement.graphs import marked, torn, unmarked, without_graph
from tilewright_grinder.placement.keep import resident
from tilewright_grinder.placement.lift import Called, Lifter, Refused
from tilewright_grinder.placement.limits import NoRoomError, fitting, reserved
from tilewright_grinder.placement.predict import Predictor
from tilewright_grinder.placement.recursion import Recursion, component


def make(options: GrinderOptions) -> Place:
    """The service."""

    def place(cover: Cover, request: Request) -> tuple[Step, ...]:
        session = request.session
        placer = GrinderPlacer(session, options, cover, without_graph(session))
        parts = placer.procedure(request.function)
        if parts:
            return parts
        steps = placer.steps(cover, request)
        if torn(steps):
            why = "the host decides elsewhere, or there are too many launches, so no graph stands for the program"
            steps = GrinderPlacer(session, options, cover, why).steps(cover, request)
        return tuple(steps)

    return place


AROUND = ("host", "graph")
"""The levels of control that stands around launches."""
THREADS = (1024, 640, 512, 256)
"""Of a unit that has to hold kernels which do not fit together as they are; the fewer, the more registers for each."""


@attrs.frozen
class _Version:
    """What a loop or branch becomes at a level.

    Args:
        inside: the level of each loop and branch inside.
        threads: that its units have at most; 0: no matter.
    """

    steps: list[HostStep]
    seconds: float
    inside: dict[str, str] = attrs.field(factory=dict)
    threads: int = 0


@attrs.define
class GrinderPlacer(Placer):
    """Places the control flow of a function.

    Args:
        cover: of the whole function.
        no_graph: why no control runs at level graph, "" where it may.
    """

    options: GrinderOptions
    cover: Cover
    no_graph: str = ""
    _values: dict[str, Value] = attrs.field(factory=dict, init=False)
    _names: dict[str, list[str]] = attrs.field(factory=dict, init=False)
    _threads: int = attrs.field(default=0, init=False)
    _open: tuple[str, ...] = attrs.field(default=(), init=False)
    """Functions whose level is being decided; the host calls them as long."""

    def __attrs_post_init__(self) -> None:
        self._values.update({x.name: x for x in _values(self.cover)})

    def control(self, item: ControlItem, request: Request) -> list[HostStep]:
        """See `Placer.control`."""
        if request.context.level != "host":
            steps = self.around(item, request)
            for step in steps:
                if isinstance(step, HostLoop | HostIf):
                    self._names.setdefault(_key(step), []).append(item.name)
            return steps
        return self._chosen(item, request)

    def _chosen(self, item: ControlItem, request: Request) -> list[HostStep]:
        around = self.around(item, request)
        if any(x.procedure in self._open for x in calls(around)):
            return around
        predictor = self.predictor()
        if isinstance(item.op, Call):
            return self._call(item, item.op, around, predictor)
        session = self.session
        found: dict[str, _Version] = {}
        refused: dict[str, str] = {}
        self._try_around(item, around, predictor, found, refused)
        kept = resident(item, session)
        on_trial = attrs.evolve(request, context=Context(request.context.trips, "grid"), resident=kept)
        rooms = self.rooms(around)
        for threads in rooms:
            self._try(item, on_trial, threads, predictor, found, refused)
        costs = {level: x.seconds for level, x in found.items()}
        level = self._level(item.name, costs, {x: why for x, why in refused.items() if x not in found})
        # What is recorded of kernels is of the last time they were asked for.
        if rooms != (0,) and level in AROUND:
            self.around(item, request)
        elif rooms != (0,):
            self._try(item, on_trial, found[level].threads, predictor, {}, {})
        refused = {x: why for x, why in refused.items() if x not in found}
        self._decided(item.name, level, costs, refused, found[level].steps)
        if level not in AROUND:
            self._record_inside(item, level, found[level].inside)
        return found[level].steps

    def begin(self, threads: int) -> None:
        """What is placed from now on is a trial of launches whose units have so many threads; 0: no matter."""
        self._threads, self._names = threads, {}

    def planned(self, group: Group, request: Request) -> Planned:
        """See `Placer.planned`: inside a launch the best kernel that leaves room for the others."""
        if request.context.level == "host" or not self._threads:
            return self.session.plan(group)
        choices = self._fitting(group, request)
        return attrs.evolve(self.session.plan(group, choices[0]), choices=choices)

    def _fitting(self, group: Group, request: Request) -> tuple[TileChoice, ...]:
        """The choices that fit; where none of the best does, the proposer is asked for others."""
        session, threads = self.session, self._threads
        weights = {x.name for x in group.inputs} & session.constants
        kept = bool(weights) and weights <= {*request.resident}
        try:
            return fitting(session.propose(group), threads, session, kept)
        except NoRoomError:
            asked = session.analysis(
                "grinder.fitting", (session.canonical(group).key, threads), lambda: self._asked_for(group, threads)
            )
            if not asked:
                raise
            return fitting(asked, threads, session, kept)

    def _asked_for(self, group: Group, threads: int) -> tuple[TileChoice, ...]:
        session, device = self.session, self.session.device
        registers = device.registers_per_unit // threads - reserved(session)
        limit = Envelope(device.units, threads, registers, device.shared_per_block)
        try:
            return session.propose(group, attrs.evolve(session.request(), envelope=limit))
        except UnsupportedError:
            return ()  # the proposer has none

    def rooms(self, steps: Sequence[HostStep], within: Sequence[str] = ()) -> tuple[int, ...]:
        """Numbers of threads that units may have; 0: as many as the kernels take that each run fastest alone.

        Args:
            within: functions that the steps may call.
        """
        called = self._called(steps)
        threads = [self._recursion(x).threads for x in called]
        if any(threads):
            return (max(threads),)
        possible = all(x.procedure in (*called, *within) for x in calls(steps))
        if self.session.device.kind != "cuda" or not possible:
            return (0,)
        return (0, *(x for x in THREADS if x <= self.session.device.max_threads_per_block))

    def _try_around(
        self,
        item: ControlItem,
        around: list[HostStep],
        predictor: Predictor,
        found: dict[str, _Version],
        refused: dict[str, str],
    ) -> None:
        """Adds the levels around launches. Where the host reads back, it decides what is inside too: see `torn`."""
        plain = unmarked(around) if reads_back(around) else around
        found["host"] = _Version(around, predictor.steps(plain))
        if self.no_graph:
            refused["graph"] = self.no_graph
            return
        op = item.op
        counter = item.bodies[0].region.params[0].name if isinstance(op, Loop) else ""
        condition = self.session.place_of(op.condition.name) if isinstance(op, If) else ""
        steps = marked(around, counter, condition)
        if isinstance(steps, str):
            refused["graph"] = steps
        else:
            found["graph"] = _Version(list(steps), predictor.steps(steps))

    def _try(
        self,
        item: ControlItem,
        request: Request,
        threads: int,
        predictor: Predictor,
        found: dict[str, _Version],
        refused: dict[str, str],
    ) -> None:
        """Works out the levels inside a launch whose units have so many threads; keeps what is faster than before."""
        self.begin(threads)
        if threads:
            request = attrs.evolve(request, envelope=Envelope(self.session.device.units, threads))
        try:
            steps = self.around(item, request)
        except NoRoomError as error:
            refused |= dict.fromkeys(("block", "grid"), str(error))
            return
        for level in ("block", "grid"):
            placed: dict[str, str] = {}
            made = self._launch(item.name, level, steps, predictor, placed)
            if isinstance(made, Refused):
                refused[level] = made.why
                continue
            seconds = predictor.steps([made])
            if level not in found or seconds < found[level].seconds:
                found[level] = _Version([made], seconds, placed, threads)

    def _launch(
        self, name: str, level: str, steps: Sequence[HostStep], predictor: Predictor, placed: dict[str, str]
    ) -> Launch | Refused:
        fixed = [x for names in self._names.values() for x in names if self.asked(x) in AROUND and x != name]
        if fixed:
            return Refused(f"{fixed[0]}, which is inside, is kept at level {self.asked(fixed[0])}")

        lifter = self.lifter(name, steps, predictor, placed)
        return lifter.block(name, steps) if level == "block" else lifter.grid(name, steps)

    def lifter(
        self, name: str, steps: Sequence[HostStep], predictor: Predictor, placed: dict[str, str], apart: bool = False
    ) -> Lifter:
        """What makes launches of the steps of a loop, a branch or a call, or of a function's ("")."""
        called = self._called(steps)
        apart |= any(x.subgrids.levels for x in called.values())

        def note(step: HostLoop | HostIf, inner: str) -> None:
            placed.update(dict.fromkeys(self._names.get(_key(step), []), inner))

        def asked(step: HostLoop | HostIf) -> str:
            own = self._names.get(_key(step), [name])
            return "grid" if name in own else next((x for x in map(self.asked, own) if x in ("grid", "block")), "")

        return Lifter(self.session, self._value, predictor, asked, note, called, apart)

    def _called(self, steps: Sequence[HostStep]) -> dict[str, Called]:
        """The functions among those that some steps call which launches call."""
        names = dict.fromkeys(x.procedure for x in calls(steps) if x.procedure not in self._open)
        return {x: found.called[x] for x in names if (found := self._recursion(x)).bodies}

    def _call(self, item: ControlItem, call: Call, around: list[HostStep], predictor: Predictor) -> list[HostStep]:
        """A call from outside of the functions that call each other, or one that the host makes."""
        found = self._recursion(call.function)
        if found.level == "host":
            self._decided(item.name, found.level, found.seconds, found.refused, ())
            return around
        *copies, called = around
        self._names = {}  # what is tried around it says nothing of the call
        made = self._launch(item.name, found.level, [called], predictor, {})
        if isinstance(made, Refused):
            raise InternalError(f"{item.name} cannot call {call.function}, which units run: {made.why}.")
        self._decided(item.name, found.level, found.seconds, found.refused, [made])
        return [*copies, made]

    def procedure(self, function: str) -> tuple[Part, ...]:
        """What units run when launches call a function that the cover is of; nothing where the host runs it."""
        found = self._recursion(function) if function else None
        if found is None or not found.bodies:
            return ()
        why = f"inside {function}, which launches call"
        placed = found.inside if found.level == "grid" else {}
        for inner in inside(self.cover):
            chosen = {"level": placed.get(inner.name, found.level), "inside": function}
            self.session.decide("control_place", inner.name, chosen, why=why)
        return found.bodies[function]

    def _recursion(self, function: str) -> Recursion:
        """What becomes of a function and of those that it is connected with by calls. It is decided once."""
        functions = component(function, self.session.functions.calls)
        return self.session.analysis("grinder.recursion", functions, lambda: self._recursions(functions))

    def _recursions(self, functions: tuple[str, ...]) -> Recursion:
        session, covers = self.session, self.session.functions.covers
        placers = {x: GrinderPlacer(session, self.options, covers[x]) for x in functions}
        bodies: dict[str, list[HostStep]] = {}
        for name, placer in placers.items():
            placer._open = functions
            bodies[name] = placer.steps(covers[name], Request(session, function=name))
        each = [placers[x].predictor().steps(steps) for x, steps in bodies.items()]
        trials = Trials(placers, session, self.options)
        trials.found["host"] = Recursion("host", {"host": self.options.calls * sum(each) / len(each)})
        trials.attempt_all()
        refused = {x: why for x, why in trials.refused.items() if x not in trials.found}
        costs = {level: x.seconds[level] for level, x in trials.found.items()}
        calling = [x.name for x in inside(self.cover) if isinstance(x.op, Call) and x.op.function in functions]
        names = [*calling, *(x.name for y in placers.values() for x in inside(y.cover) if isinstance(x.op, Call))]
        name = next((x for x in names if x in self.options.levels), names[0])
        chosen = trials.found[self._level(name, costs, refused)]
        if chosen.bodies:  # what is recorded of kernels is of the last time they were asked for
            Trials(placers, session, self.options).attempt(chosen.threads)
        return attrs.evolve(chosen, seconds=costs, refused=refused)

    def predictor(self) -> Predictor:
        """What prices the steps of this function."""
        session, options = self.session, self.options

        def called(function: str) -> float:
            if function in self._open:
                return 0.0
            found = self._recursion(function)
            return found.seconds[found.level]

        about = (session.device, session.table.kernels, session.symbols, self._value)
        return Predictor(*about, options.trips, options.taken, called)

    def asked(self, name: str) -> str:
        """The level that options name for a loop or branch, "" for none."""
        return self.options.levels.get(name, "" if self.options.level == "auto" else self.options.level)

    def _level(self, name: str, costs: dict[str, float], refused: dict[str, str]) -> str:
        asked = self.asked(name)
        if asked in costs:
            return asked
        if name in self.options.levels:
            raise InputError(
                f"Option grinder.levels asks for level {asked} of {name}, which is not possible: {refused[asked]}.",
                f"Leave {name} out of the option.",
            )
        if asked:
            return "host"
        best = min(costs, key=lambda level: costs[level])
        return best if costs[best] < costs["host"] * (1 - self.options.gain) else "host"

    def _decided(
        self,
        name: str,
        level: str,
        costs: Mapping[str, float],
        refused: Mapping[str, str],
        made: Sequence[HostStep],
    ) -> None:
        others = [x for x in costs if x != level]
        ordered = [costs[level], *(costs[x] for x in others)]
        told = self.session.device.has(FEATURE) or self.asked(name) == "graph"
        reasons = [f"not {x}: {reason}" for x, reason in refused.items() if x != "graph" or told]
        if costs[level] > min(costs.values()):
            reasons.append("asked for" if self.asked(name) else "no other level saves enough")
        why = "; ".join(reasons) or "the fastest by prediction"
        self.session.decide("control_place", name, {"level": level}, [{"level": x} for x in others], ordered, why)
        for launch in made if level not in AROUND else ():
            assert isinstance(launch, Launch)
            why = f"control of {name} and the launches of its body as one, at level {level}"
            self.session.decide("schedule", launch.name, shape_of(launch), costs=[costs[level]], why=why)

    def _record_inside(self, item: ControlItem, level: str, placed: dict[str, str]) -> None:
        why = f"inside {item.name}, which is one launch"
        for inner in inside(*item.bodies):
            chosen = {"level": placed.get(inner.name, level), "inside": item.name}
            self.session.decide("control_place", inner.name, chosen, why=why)

    def _value(self, name: str) -> Value | None:
        """The value that stands in a place, or one like it."""
        name = self.session.twins.get(name, name)
        found = self._values.get(name)
        if found is None:
            found = next((x for x in self._values.values() if self.session.place_of(x.name) == name), None)
        return found


def _key(step: HostLoop | HostIf) -> str:
    """What tells loops and branches apart while they are host steps."""
    return f"loop {step.counter}" if isinstance(step, HostLoop) else f"if {step.condition}"


def _values(cover: Cover) -> Iterator[Value]:
    yield from (*cover.region.params, *cover.region.results)
    for item in cover.items:
        yield from (*item.inputs, *item.outputs)
        if isinstance(item, ControlItem):
            for body in item.bodies:
                yield from _values(body)
