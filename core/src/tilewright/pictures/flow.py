"""Which uses of kernels read what which others wrote, in the order of a program's text, through loops and branches."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from tilewright.ir.expr import Const, Expr
from tilewright.ir.program import (
    BlockControl,
    Copy,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Item,
    Launch,
    Part,
    Phase,
    Program,
    Set,
    Task,
)

CALL = ""
"""What stands for the kernel of a use that is a call of a function."""

_Step = HostStep | Part | Item
_Writers = dict[str, frozenset[int | str]]
"""Of each value the uses whose writes it may hold, by number; an input of the program by its name."""


@attrs.frozen
class Use:
    """A kernel in one place of the program.

    Args:
        launch: name of its launch, or of the function that is called.
        args: names of the values, inputs before outputs.
        scopes: loops, branches and functions around it, outermost first.
    """

    kernel: str
    launch: str
    args: tuple[str, ...]
    scopes: tuple[str, ...]


@attrs.frozen
class Flow:
    """All uses in the order of the text, and what they hand over.

    Args:
        edges: names of values by (source, target, whether it is for the next trip of a loop).
        inputs, outputs: by use, (the model's name, the program's) of the model's inputs read and outputs made.
    """

    uses: tuple[Use, ...]
    edges: dict[tuple[int, int, bool], tuple[str, ...]]
    inputs: dict[int, tuple[tuple[str, str], ...]]
    outputs: dict[int, tuple[tuple[str, str], ...]]


def flow_of(program: Program) -> Flow:
    """Follows the values of a program."""
    shown = dict(zip([x.name for x in program.inputs], program.input_names, strict=True))
    walk = _Walk(program)
    writers: _Writers = {x.name: frozenset([x.name]) for x in program.inputs}
    walk.steps(program.body, _Place(), writers)
    outputs: dict[int, tuple[tuple[str, str], ...]] = {}
    for name, value in zip(program.output_names, program.outputs, strict=True):
        for use in (x for x in writers.get(value.name, ()) if isinstance(x, int)):
            outputs[use] = (*outputs.get(use, ()), (name, value.name))
    for procedure in program.procedures.values():
        inside = writers | dict.fromkeys(procedure.params, frozenset[int | str]())
        # What launches call stands in none.
        home = _Place((procedure.name,), (f"function {procedure.name}",), (procedure.name,), procedure.name)
        walk.steps(procedure.body, home, inside)
    edges: dict[tuple[int, int, bool], tuple[str, ...]] = {}
    inputs: dict[int, dict[str, str]] = {}
    for (source, target, name), carried in walk.passed.items():
        if isinstance(source, str):
            inputs.setdefault(target, {})[shown[source]] = source
        else:
            key = (source, target, carried)
            edges[key] = (*edges.get(key, ()), name)
    return Flow(
        tuple(walk.uses),
        edges,
        {use: tuple(found.items()) for use, found in inputs.items()},
        outputs,
    )


@attrs.frozen
class _Place:
    """Where in the program a step stands: its path, that of its launch and the launch's name, and what is around it."""

    path: tuple[int | str, ...] = ()
    scopes: tuple[str, ...] = ()
    home: tuple[int | str, ...] = ()
    launch: str = ""

    def at(self, part: int | str) -> _Place:
        return attrs.evolve(self, path=(*self.path, part))

    def within(self, scope: str) -> _Place:
        return attrs.evolve(self, scopes=(*self.scopes, scope))


class _Walk:
    """Takes the steps in order; a loop's body until another trip would leave nothing new for the next."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.uses: list[Use] = []
        self.passed: dict[tuple[int | str, int, str], bool] = {}
        self._numbers: dict[tuple[int | str, ...], int] = {}
        self._trips = 0
        self._missing: list[tuple[int, str]] = []

    def steps(self, steps: Iterable[_Step], place: _Place, writers: _Writers) -> None:
        """Follows the values through some steps; `writers` becomes what holds after them."""
        for i, step in enumerate(steps):
            self._step(step, place.at(i), writers)

    def _step(self, step: _Step, place: _Place, writers: _Writers) -> None:
        match step:
            case Launch():
                self.steps(step.body, attrs.evolve(place, home=place.path, launch=step.name), writers)
            case Phase():
                self._phase(step, place, writers)
            case Task():
                results = len(step.args) - len(self.program.kernels[step.kernel].group.outputs)
                # What several units of a launch do of one kernel is one use of it.
                key = (*place.home, step.kernel, *step.args)
                use = Use(step.kernel, place.launch, step.args, place.scopes)
                self._use(use, key, step.args[:results], step.args[results:], writers)
            case HostCall() | GridCall():
                use = Use(CALL, step.procedure, step.args, place.scopes)
                self._use(use, place.path, (*step.args, *step.reads), step.results, writers)
            case Fork():
                self.steps(step.calls, place, writers)
            case HostCopy() | Copy():
                before = frozenset[int | str]() if step.row is None else writers.get(step.target, frozenset())
                writers[step.target] = before | writers.get(step.source, frozenset())
            case HostSet() | Set():
                writers[step.target] = frozenset()
            case HostIf():
                self._branch(step.condition, step.then, step.orelse, place, writers)
            case HostLoop():
                self._loop(step.counter, step.trip, step.body, place, writers)
            case GridControl() | BlockControl() if not step.counter:
                self._branch(step.condition, step.body, step.orelse, place, writers)
            case GridControl() | BlockControl():
                self._loop(step.counter, step.trip, step.body, place, writers)
            case _:  # signals and waits hand nothing over
                pass

    def _use(
        self, use: Use, key: tuple[int | str, ...], reads: Iterable[str], results: Iterable[str], writers: _Writers
    ) -> None:
        if key not in self._numbers:
            self._numbers[key] = len(self.uses)
            self.uses.append(use)
        number = self._numbers[key]
        for name in reads:
            self._read(number, name, writers)
            if not writers.get(name):
                self._missing.append((number, name))
        writers |= dict.fromkeys(results, frozenset([number]))

    def _read(self, number: int, name: str, writers: _Writers) -> None:
        for source in sorted(writers.get(name, ()), key=str):
            self.passed.setdefault((source, number, name), self._trips > 0)

    def _phase(self, phase: Phase, place: _Place, writers: _Writers) -> None:
        """Lanes run side by side, so what one reads may be written by a later one, for which it waits."""
        self._missing = []
        for i, lane in enumerate(phase.lanes):
            self.steps(lane.items, place.at(i), writers)
        for number, name in self._missing:
            self._read(number, name, writers)

    def _branch(
        self, condition: str, then: Iterable[_Step], orelse: Iterable[_Step], place: _Place, writers: _Writers
    ) -> None:
        other = dict(writers)
        self.steps(then, place.at("then").within(f"if {condition}"), writers)
        self.steps(orelse, place.at("else").within(f"else of {condition}"), other)
        _join(writers, other)

    def _loop(self, counter: str, trip: Expr | None, body: Iterable[_Step], place: _Place, writers: _Writers) -> None:
        most = f", at most {trip.value} trips" if isinstance(trip, Const) else ""
        inside = place.within(f"loop {counter}{most}")
        known: _Writers | None = None
        later = 0
        while known != writers:
            known = dict(writers)
            self._trips += later
            self.steps(body, inside, writers)
            self._trips -= later
            _join(writers, known)
            later = 1


def _join(writers: _Writers, other: _Writers) -> None:
    """After one way or the other a value holds what either left in it."""
    for name, found in other.items():
        writers[name] = writers.get(name, frozenset()) | found
