"""The session: where the slots meet. It hands out services, caches what they answer and keeps the decision record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.errors import UnsupportedError
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Cover, Group
from tilewright.ir.keys import Canonical, canonical
from tilewright.ir.module import Constant, Module, Symbol
from tilewright.ir.ops import Region
from tilewright.ir.program import Launch, Step
from tilewright.planning import trial
from tilewright.planning.functions import Functions
from tilewright.planning.kernels import KernelTable
from tilewright.planning.record import Record
from tilewright.planning.requests import Cost, Decision, Planned, Request
from tilewright.planning.storage import Part
from tilewright.planning.trial import CodeFacts, Failure, Samples
from tilewright.planning.variants import launches_program
from tilewright.recipes import Columns, Match, Recipe
from tilewright.views.subject import Subject, subject_of
from tilewright.views.symbols import group_symbols

_T = TypeVar("_T")
_S = TypeVar("_S")


class Session:
    """One compilation's services, caches and decisions.

    Args:
        target: canonical target string.
        device: the model of the target.
        recipes: those of the target's backend.
        services: the chosen value of each slot, made by its factory.
        constants: names of the values known at compile time.
        passes: what configuration puts at each point ("after.connect"), as functions of (IR, session).
        symbols: the module's.
    """

    def __init__(
        self,
        target: str,
        device: DeviceModel,
        recipes: Sequence[Recipe],
        services: Mapping[str, Any],
        constants: frozenset[str],
        passes: Mapping[str, Sequence[Callable[[Any, Any], Any]]] | None = None,
        symbols: tuple[Symbol, ...] = (),
    ) -> None:
        self.target = target
        self.device = device
        self.recipes = tuple(sorted(recipes, key=lambda r: (-r.priority, r.name)))
        self.constants = constants
        self.tensors: dict[str, Constant] = {}
        """The tensors of `constants`, as far as the planner gives them."""
        self.inputs: frozenset[str] = frozenset()
        """Names of the program's inputs, as far as the planner gives them."""
        self.symbols = symbols
        self.record = Record()
        self.table = KernelTable()
        self.aliases: dict[str, str] = {}
        self.twins: dict[str, str] = {}
        """Second places of values, by name: what they are like."""
        self.parts: dict[str, Part] = {}
        """Values that are parts of inputs, by name."""
        self.turns_weights = True
        """Whether weights may be stored in another order; not where groups are given that read them as they are."""
        self.functions = Functions()
        self.trial_limits = trial.Limits(threads=device.units if device.kind == "cpu" else None)
        self.trials: trial.Store | None = None
        self.verify_stages = False
        self._passes = passes or {}
        self._services = dict(services)
        self._analyses: dict[tuple[str, object], Any] = {}

    def service(self, slot: str) -> Any:
        """The chosen value of a slot."""
        return self._services[slot]

    def request(self) -> Request:
        """A request without limits."""
        return Request(self)

    def estimate(self) -> Request:
        """A request for predictions."""
        return Request(self, estimate=True)

    def propose(self, group: Group, request: Request | None = None) -> tuple[TileChoice, ...]:
        """The ranked choices for a group. Equal groups are asked for once, and once for an estimate.

        Raises:
            UnsupportedError: no recipe of the target matches the group.
        """

        def ask() -> tuple[TileChoice, ...]:
            choices: tuple[TileChoice, ...] = self.service("propose")(group, request or self.request())
            return choices

        if request is None or request == self.request():
            choices = self.analysis("propose", self.canonical(group).key, ask)
        elif request == self.estimate():
            choices = self.analysis("estimate", self.canonical(group).key, ask)
        else:
            choices = ask()
        if not choices:
            where = ", ".join(str(op.loc) for op in group.ops)
            symbolic = [x.name for x in group_symbols(group, self.symbols)]
            if symbolic:
                ranges = ", ".join(map(repr, symbolic))
                raise UnsupportedError(
                    f"No recipe for {self.device.kind} can run {where or group.name} with the range of {ranges}.",
                    f"Give the dimension one size when compiling, for example --shape {symbolic[0]}=128.",
                )
            raise UnsupportedError(
                f"No recipe for {self.device.kind} can run {where or group.name}.",
                "Check with `tilewright plugins list` that the target's backend is installed.",
            )
        return choices

    def plan(self, group: Group, choice: TileChoice | None = None) -> Planned:
        """The group with its kernel for `choice` (by default the best one) and its arguments.

        Values that are views of others stand under the name of what holds their bytes.
        """
        choices = self.propose(group)
        chosen = choice or choices[0]
        canonical = self.canonical(group)
        kernel, args = self.table.bind(group, lambda: self.subject(group), canonical, chosen, self.symbols)
        self.record.choice(group, kernel, chosen, choices)
        return Planned(group, choices, kernel, tuple(map(self.place_of, args)))

    def place_of(self, name: str) -> str:
        """The name under which a value's bytes are stored: its own, or that of the value that it stands in."""
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def add_constants(self, constants: Mapping[str, Constant]) -> None:
        """Makes tensors known that a rewrite has computed from others; their names are new."""
        self.tensors.update(constants)
        self.constants |= constants.keys()

    def stage(self, name: str, ir: _T, run: Callable[[_T], _S]) -> _S:
        """`run(ir)` between the passes that configuration puts before and after the stage."""
        for change in self._passes.get(f"before.{name}", ()):
            ir = change(ir, self)
        result = run(ir)
        for change in self._passes.get(f"after.{name}", ()):
            result = change(result, self)
        return result

    def rewrite_control(self, module: Module) -> Module:
        """The module after the chosen `control_rewrite`."""
        rewritten: Module = self.service("control_rewrite")(module, self.request())
        self.record.rewritten(module, rewritten)
        return rewritten

    def connect(self, region: Region) -> Cover:
        """The cover of a region by the chosen `connect`."""
        cover: Cover = self.service("connect")(region, self.request())
        self.record.cover(cover)
        return cover

    def schedule(self, planned: Sequence[Planned], request: Request | None = None) -> tuple[Launch, ...]:
        """Launches for groups without control flow between them; passes see the groups before, the launches after."""

        def ask(given: Sequence[Planned]) -> tuple[Launch, ...]:
            launches: tuple[Launch, ...] = self.service("schedule")(given, request or self.request())
            self.record.launches(launches)
            return launches

        return self.stage("schedule", planned, ask)

    def place(self, cover: Cover, function: str = "") -> tuple[Step, ...]:
        """What a cover becomes by the chosen `control_place`.

        Args:
            function: that it is the cover of; "": of the entry.
        """
        steps: tuple[Step, ...] = self.service("control_place")(cover, Request(self, function=function))
        self.record.placed(cover)
        return steps

    def cost(self, match: Match, columns: Columns) -> npt.NDArray[np.float64]:
        """Predicted seconds for every row of an array of choices."""
        service: Cost = self.service("cost")
        return service(match, columns, self.device)

    def build(self, group: Group, choices: Sequence[TileChoice]) -> list[CodeFacts | Failure]:
        """Compiles choices for a group in isolated workers, side by side; needs no device. Each is compiled once."""
        return self._try(trial.BUILD, group, choices)

    def measure(self, group: Group, choices: Sequence[TileChoice]) -> list[Samples | Failure]:
        """Measures choices for a group on random operands in an isolated worker. Each is measured once.

        They are built side by side, then measured one after the other. Processes that measure on one device take turns.
        """
        if self.device.plan_only:
            return [Failure(f"No code can be generated for {self.target}: {self.device.plan_only}.")] * len(choices)
        return self._try(trial.MEASURE, group, choices)

    def measure_launches(
        self, planned: Sequence[Planned], variants: Sequence[Sequence[Launch]]
    ) -> list[Samples | Failure]:
        """Measures several ways to run the same kernels, as `measure` does; none is kept beyond the session."""
        if self.device.plan_only:
            return [Failure(f"No code can be generated for {self.target}: {self.device.plan_only}.")] * len(variants)
        programs = [launches_program(planned, x, self.table, self.tensors) for x in variants]
        return trial.measure_programs(self.target, programs, self.trial_limits)

    def _try(self, kind: trial.Kind[_T], group: Group, choices: Sequence[TileChoice]) -> list[_T | Failure]:
        """What is known in this session, or else in the store, or else from a worker, which is then kept in both."""
        key = self.canonical(group).key
        known: dict[tuple[object, ...], _T | Failure] = self.analysis(kind.name, key, dict)
        for choice in choices:
            if (choice.recipe, choice.params) not in known and self.trials is not None:
                stored = self.trials.find(kind.name, key, choice)
                if stored is not None:
                    known[choice.recipe, choice.params] = kind.result(stored)
        new = [c for c in choices if (c.recipe, c.params) not in known]
        answers = trial.ask(kind.name, self.target, group, new, self.constants, self.trial_limits) if new else []
        for choice, answer in zip(new, answers, strict=True):
            failed = isinstance(answer, Failure)
            known[choice.recipe, choice.params] = answer if failed else kind.result(answer)
            if self.trials is not None and not failed:
                self.trials.keep(kind.name, key, choice, answer)
        return [known[c.recipe, c.params] for c in choices]

    def matches(self, group: Group) -> tuple[Match, ...]:
        """How the target's recipes see the group: every recipe of non-negative priority, or else the fallbacks."""

        def find() -> tuple[Match, ...]:
            subject = self.subject(group)
            if subject is None:
                return ()
            found = [(r, m) for r in self.recipes if (m := r.see(subject, self.device)) is not None]
            preferred = tuple(m for r, m in found if r.priority >= 0)
            return preferred or tuple(m for _, m in found)

        return self.analysis("matches", group, find)

    def subject(self, group: Group) -> Subject | None:
        """What recipes see of the group, or None when it is nothing that a recipe could take."""
        return self.analysis("subject", group, lambda: subject_of(group, self.constants, self.symbols))

    def canonical(self, group: Group) -> Canonical:
        """Structural key of the group, and its values in the key's order."""
        return self.analysis("canonical", group, lambda: canonical(group, self.constants))

    def analysis(self, kind: str, subject: object, compute: Callable[[], _T]) -> _T:
        """`compute()`, remembered for this session under (kind, subject)."""
        key = (kind, subject)
        if key not in self._analyses:
            self._analyses[key] = compute()
        found: _T = self._analyses[key]
        return found

    def decide(
        self,
        slot: str,
        subject: str,
        chosen: Any,
        alternatives: Sequence[Any] = (),
        costs: Sequence[float] = (),
        why: str = "",
    ) -> None:
        """Adds an entry to the decision record, in place of an earlier one about the same.

        A service says here why it decided as it did. What it leaves out, the session adds from its answer.
        """
        self.record.add(Decision(slot, subject, chosen, tuple(alternatives), tuple(costs), why))
