"""Host steps as one launch: loops and branches of the host become those of the grid, or of one unit of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import attrs

from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import Const, Expr, Var, const, maximum
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Copy,
    Envelope,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Item,
    Kernel,
    Lane,
    Launch,
    Part,
    Phase,
    Set,
    Task,
    calls,
    launches,
)
from tilewright.ir.stack import alone, table_bytes
from tilewright.ir.subgrids import Subgrids
from tilewright.ir.verify.calls import places, settles
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.session import Session
from tilewright.planning.storage import byte_size
from tilewright.planning.tracing import MOST
from tilewright_grinder.placement.barriers import EMPTY, hastened, joined, settled
from tilewright_grinder.placement.forks import siblings, widths, without_haste
from tilewright_grinder.placement.keep import kept
from tilewright_grinder.placement.limits import STACK, ValueOf, calling_envelope, envelope_of, needs_of, outside
from tilewright_grinder.placement.predict import Predictor
from tilewright_grinder.placement.relief import relieved
from tilewright_grinder.placement.turn import rotated, turned
from tilewright_grinder.placement.waits import folded, on_unit, unit_lists, without_waits

PIECE = 1 << 12
"""Bytes of a copy from which on another unit takes a part of it."""
MANY = 4
"""Copies in a row that one unit does alone, if there are fewer, for what is before and behind them is often its too."""
MOST_TRIPS = 1 << 30
"""Trips that units count in 32 bits."""

Inner = Callable[[HostLoop | HostIf], str]
"""The level at which a loop or branch inside a launch has to run, "" where prediction decides."""


@attrs.frozen
class Refused:
    """Why steps cannot be a launch."""

    why: str


@attrs.frozen
class Called:
    """What launches need that call a procedure.

    Args:
        units: that it runs on; as many as there are in the launch where that is 0.
        needs: of a unit.
        sites: places in the tables of units that it and what it calls need.
        direct: whether it begins with a phase of unit 0.
        led: whether unit 0 leads them.
        subgrids: which forks run their calls side by side.
    """

    units: int = 0
    needs: Resources = attrs.field(factory=lambda: Resources(1))
    sites: int = 0
    direct: bool = False
    led: bool = False
    subgrids: Subgrids = attrs.field(factory=Subgrids)


@attrs.frozen
class Lifter:
    """Makes launches of host steps.

    Args:
        inner: what is asked of loops and branches inside.
        placed: is told the level of each of them.
        called: the procedures that launches call.
        apart: whether calls that need nothing of each other are forks.
    """

    session: Session
    value_of: ValueOf
    predictor: Predictor
    inner: Inner
    placed: Callable[[HostLoop | HostIf, str], None]
    called: Mapping[str, Called] = attrs.field(factory=dict)
    apart: bool = False

    def grid(self, name: str, steps: Sequence[HostStep]) -> Launch | Refused:
        """A launch of as many units as have something to do, which take control together."""
        envelope = self._envelope(steps, alone=False)
        if isinstance(envelope, Refused):
            return envelope
        return self._together(name, steps, envelope)

    def _together(self, name: str, steps: Sequence[HostStep], envelope: Envelope) -> Launch | Refused:
        try:
            parts = _Grid(self, envelope.units).parts(steps)
        except _NotKnownError as error:
            return Refused(str(error))
        names = {x.procedure for x in calls(steps)}
        if names:
            return self._calling(name, parts, envelope, names)
        traced = MOST if any(x.traced for x in launches(steps)) else 0
        kernels = self.session.table.kernels
        body = settled(relieved(parts, kernels, envelope.units), kernels)
        launch = Launch(name, envelope, body, traced=traced)
        return kept(launch, self.session, self.predictor.trips_of)

    def _calling(
        self, name: str, parts: Sequence[Part], envelope: Envelope, names: Collection[str]
    ) -> Launch | Refused:
        """A launch that calls procedures."""
        parts = settled(parts, self.session.table.kernels)
        levels = max(self.called[x].subgrids.levels for x in names)
        each = {*widths((parts,)), *(y for x in names for y in self.called[x].subgrids.widths)}
        subgrids = Subgrids(levels, tuple(sorted(each))) if levels else Subgrids()
        sites = places_in(parts, levels > 0) + sum(self.called[x].sites for x in names)
        if table_bytes(sites, levels) > STACK:
            return Refused(f"units need a table of {sites} places, and have room for {STACK // table_bytes(1)}")
        led = envelope.units > 1 and any(self.called[x].led for x in names)
        body = self.hastened(parts, lambda name: self.called[name].direct)
        return Launch(name, envelope, body, led=led, subgrids=subgrids)

    def hastened(self, parts: Sequence[Part], direct: Callable[[str], bool]) -> tuple[Part, ...]:
        """The parts without barriers around calls where they need none; `direct` as `Called` says it."""
        return hastened(parts, self.session.table.kernels, lambda name: alone(self.bytes_of(name)), direct)

    def procedure(self, steps: Sequence[HostStep], units: int) -> tuple[Part, ...] | Refused:
        """What the units of launches run when they call a function that is these steps."""
        try:
            parts = _Grid(self, units).parts(steps)
        except _NotKnownError as error:
            return Refused(str(error))
        # Who returns copies results to where others may still read what they have decided by.
        end = () if settles(parts) else (EMPTY,)
        return settled((*parts, *end), self.session.table.kernels)

    def block(self, name: str, steps: Sequence[HostStep]) -> Launch | Refused:
        """A launch of one unit."""
        envelope = self._envelope(steps, alone=True)
        if isinstance(envelope, Refused):
            return envelope
        if calls(steps):
            return self._together(name, steps, envelope)
        try:
            items = tuple(self.items(steps))
        except _NotKnownError as error:
            return Refused(str(error))
        return Launch(name, envelope, (Phase((Lane(0, const(1), items),)),))

    def _envelope(self, steps: Sequence[HostStep], alone: bool) -> Envelope | Refused:
        why = outside(steps, self.session, self.value_of, self.called)
        if why:
            return Refused(why)
        needs = needs_of(steps, self.session)
        called = [self.called[x.procedure] for x in calls(steps)]
        if not called:
            envelope = envelope_of(needs, self.session, alone)
            return Refused(envelope) if isinstance(envelope, str) else envelope
        units = max(x.units for x in called)
        if alone and units > 1:
            return Refused(f"it calls {calls(steps)[0].procedure}, which runs on {units} units")
        found = calling_envelope((needs, *(x.needs for x in called)), units, self.session, alone)
        return Refused(found) if isinstance(found, str) else found

    def items(self, steps: Sequence[HostStep]) -> Iterator[Item]:
        """What one unit does that does all of some steps."""
        for step in steps:
            match step:
                case Launch():
                    yield from self._alone(step)
                case HostCopy():
                    yield Copy(step.source, step.target, step.row)
                case HostSet():
                    yield Set(step.target, step.value)
                case HostIf():
                    self.placed(step, "block")
                    then, orelse = (tuple(self.items(x)) for x in (step.then, step.orelse))
                    if then or orelse:
                        yield BlockControl("", None, step.condition, then, orelse)
                case HostLoop():
                    self.placed(step, "block")
                    body = tuple(self.items(step.body))
                    if body:
                        yield BlockControl(step.counter, _trips(step), step.condition, body, limit=step.limit)

    def _alone(self, launch: Launch) -> Iterator[Item]:
        """All that the units of a launch do, on one unit."""
        task = launch.only_task
        if task is not None:
            yield attrs.evolve(task, first=const(0), count=_tasks(self.session.table.kernels[task.kernel].choice))
            return
        for phase in _phases(launch):
            for unit, items in unit_lists(phase.lanes):
                yield from (on_unit(x, const(unit)) for x in items)

    def bytes_of(self, name: str) -> int:
        """Bytes of what is copied, by the bounds of the symbols."""
        value = self.value_of(name)
        assert value is not None, name  # `outside` has looked
        return byte_size(value, {x.name: x.interval for x in self.session.symbols})


def places_in(parts: Sequence[Part], apart: bool) -> int:
    """Places in the tables of units that parts need, whether unit 0 leads or not; `apart` as of `places`."""
    return places(parts, True, apart)


class _NotKnownError(Exception):
    """Something that steps do cannot be said inside a launch."""


@attrs.frozen
class _Grid:
    """Parts of a launch of so many units."""

    lifter: Lifter
    units: int

    @property
    def _kernels(self) -> Mapping[str, Kernel]:
        return self.lifter.session.table.kernels

    def parts(self, steps: Sequence[HostStep]) -> tuple[Part, ...]:
        """The parts of some steps, with barriers where values cross units."""
        made: list[Part] = []
        ordered = siblings(steps, self._kernels) if self.lifter.apart else list(steps)
        spread = _spread(ordered, self._kernels)
        for number, step in enumerate(ordered):
            match step:
                case tuple():
                    made.append(without_haste(step))
                case Launch():
                    made += self._launch(attrs.evolve(step, traced=0))
                case HostCopy():
                    made.append(self._copy(step, spread.get(number, 0) % self.units))
                case HostSet():
                    made.append(Phase((Lane(0, const(1), (Set(step.target, step.value),)),)))
                case HostIf() | HostLoop():
                    made += self._control(step)
                case HostCall():
                    made.append(GridCall(step.procedure, step.args, step.results, step.reads))
        return joined(made, self.lifter.session.table.kernels)

    def _control(self, step: HostIf | HostLoop) -> tuple[Part, ...]:
        """A loop or branch of the grid, or one that a unit takes alone, if that is predicted to be faster."""
        asked = self.lifter.inner(step)
        together = self._together(step)
        if asked != "grid" and not calls((step,)):
            items = tuple(self.lifter.items((step,)))
            predictor = self.lifter.predictor
            alone = (Phase((Lane(0, const(1), items),)),)
            if asked == "block" or predictor.parts(alone, self.units) < predictor.parts(together, self.units):
                return alone if items else ()
        self.lifter.placed(step, "grid")
        return together

    def _together(self, step: HostIf | HostLoop) -> tuple[Part, ...]:
        if isinstance(step, HostIf):
            then, orelse = self.parts(step.then), self.parts(step.orelse)
            return (GridControl("", None, step.condition, then, orelse),) if then or orelse else ()
        before, step = turned(step)
        body = self.parts(step.body)
        if not body:
            return ()
        loop = GridControl(step.counter, _trips(step), step.condition, body, limit=step.limit)
        return (*self.parts(before), *rotated(loop, self.lifter.session.table.kernels))

    def _launch(self, launch: Launch) -> Sequence[Phase]:
        task = launch.only_task
        if task is None:
            return [folded(x, self.units) for x in _phases(launch)]
        choice = self.lifter.session.table.kernels[task.kernel].choice
        return [Phase((dealt(task, choice, self.units),))]

    def _copy(self, copy: HostCopy, unit: int) -> Phase:
        """A copy, which all units share out or one of them does."""
        parts = min(self.units, max(self.lifter.bytes_of(copy.source) // PIECE, 1))
        part: Expr = const(0)
        if parts > 1:  # on the last units: kernels of few tasks are on the first ones
            unit = self.units - parts
            part = Var(UNIT) - unit
        return Phase((Lane(unit, const(parts), (Copy(copy.source, copy.target, copy.row, part, parts),)),))


def _spread(steps: Sequence[HostStep | tuple[HostCall, ...]], kernels: Mapping[str, Kernel]) -> dict[int, int]:
    """The units of copies that stand in a row, by their places: of many that are independent each has its own.

    What a kernel of one task makes beside them is left to the unit that has made it.
    """
    found: dict[int, int] = {}
    tasks = [x for launch in steps if isinstance(launch, Launch) for x in tasks_of(launch.body)]
    made = {name for x in tasks if kernels[x.kernel].choice.resources.tasks == 1 for name in x.args}
    for _, run in itertools.groupby(enumerate(steps), lambda x: isinstance(x[1], HostCopy)):
        copies = [(number, x) for number, x in run if isinstance(x, HostCopy) and x.source not in made]
        read, written = {x.source for _, x in copies}, {x.target for _, x in copies}
        if len(copies) >= MANY and not read & written and len(written) == len(copies):
            found.update({number: unit for unit, (number, _) in enumerate(copies)})
    return found


def dealt(task: Task, choice: TileChoice, units: int) -> Lane:
    """All tasks of a kernel on as many units as have one, by turns."""
    most = min(choice.resources.tasks, units)
    tasks = _tasks(choice)
    unit = Var(UNIT) if most > 1 else const(0)
    exact = isinstance(tasks, Const) and int(tasks.value) == most
    count = const(1) if exact else maximum((tasks + (most - 1) - unit) // most, const(0))
    return Lane(0, const(most), (attrs.evolve(task, first=unit, count=count, stride=const(most)),))


def _tasks(choice: TileChoice) -> Expr:
    return const(choice.resources.tasks) if choice.count is None else choice.count


def _trips(loop: HostLoop) -> Expr | None:
    """The trip count, unless it is more than any run makes that something else ends."""
    if not isinstance(loop.trip, Const) or int(loop.trip.value) <= MOST_TRIPS:
        return loop.trip
    if loop.condition or loop.limit:
        return None
    raise _NotKnownError(f"it makes {loop.trip.value} trips, and units count to {MOST_TRIPS}")


def _phases(launch: Launch) -> tuple[Phase, ...]:
    found = without_waits(launch)
    if isinstance(found, str):
        raise _NotKnownError(found)
    if not all(isinstance(x.units, Const) for phase in found for x in phase.lanes):
        raise _NotKnownError(f"how many units of launch {launch.name} work depends on the shapes of a run")
    return found
