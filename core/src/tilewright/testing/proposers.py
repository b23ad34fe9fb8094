"""The conformance kit for proposers: what a value of the slot `propose` has to hold, for ours and for third parties'.

A proposer's law: for every kernel that a recipe matches there are choices; they are ranked by the cost slot, none is
worse than another in every respect, each keeps the recipe's constraints and says in a line why it is there; asked
again, the proposer answers the same; and what it proposes computes the right thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from tilewright.compiler import device_of
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.errors import TilewrightError
from tilewright.frontend import load
from tilewright.ir.choice import TileChoice, undominated
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.ir.verify.choice import verify_choice
from tilewright.planning.session import Session
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import Case
from tilewright.testing.corpus import corpus


@attrs.frozen
class Broken:
    """A kernel for which the law was broken, and how."""

    case: str
    group: str
    problem: str


@attrs.frozen
class Report:
    """What a proposer was asked: kernels, choices it gave, choices that were run, and where it broke the law."""

    proposer: str
    kernels: int
    choices: int
    run: int
    broken: tuple[Broken, ...]


def check_proposer(
    name: str, target: str = "cpu", cases: Sequence[Case] | None = None, runs: int = 2, seed: int = 0
) -> Report:
    """Asks a proposer for every kernel of the corpus.

    Args:
        name: the registered value of the slot `propose`.
        target: what is planned for.
        cases: by default the whole corpus.
        runs: how many choices of each kernel are built and run: the best, and others at random. 0 asks only, which
            needs no device.
    """
    settings = bind(Config(target=target, slots={"propose": name}), Registry())
    rng = np.random.default_rng(seed)
    kernels = choices = ran = 0
    broken: list[Broken] = []
    for one in cases if cases is not None else (*corpus("float32"), *corpus("float16")):
        module = load(one.model)
        picks: list[tuple[Group, TileChoice]] = []
        for group, found, problems in _answers(settings, module):
            kernels += 1
            choices += len(found)
            broken += [Broken(one.name, group.name, x) for x in problems]
            others = rng.permutation(max(len(found) - 1, 0)) + 1
            picks += [(group, found[i]) for i in [0, *others][:runs] if found]
        ran += len(picks)
        failures = conformance.wrong(one, module, picks, settings) if picks else []
        broken += [Broken(one.name, "", f"{f.choice.recipe} {f.choice.as_dict()}: {f.problem}") for f in failures]
    return Report(name, kernels, choices, ran, tuple(broken))


def _answers(settings: Settings, module: Module) -> Iterator[tuple[Group, tuple[TileChoice, ...], list[str]]]:
    """Every kernel of a module with the proposer's choices and how they break the law."""
    first, again = (conformance.session_of(settings, module) for _ in range(2))
    for group in first.connect(module.main.body).groups:
        if not first.matches(group):
            continue
        found = first.service("propose")(group, first.request())
        problems = list(_problems(found, group, first, settings))
        if again.service("propose")(group, again.request()) != found:
            problems.append("asked again, it answers something else")
        yield group, found, problems


def _problems(found: Sequence[TileChoice], group: Group, session: Session, settings: Settings) -> Iterator[str]:
    if not found:
        yield "no choice, although a recipe matches"
        return
    costs = [x.cost for x in found]
    if costs != sorted(costs):
        yield f"not ranked: {costs}"
    if len(undominated(list(found))) != len(found):
        yield "a choice is no better in any respect than another"
    matches = {m.recipe: m for m in session.matches(group)}
    for choice in found:
        where = f"{choice.recipe} {choice.as_dict()}"
        if choice.recipe not in matches:
            yield f"{where}: the recipe does not match"
            continue
        match = matches[choice.recipe]
        try:
            verify_choice(choice, match, device_of(settings))
        except TilewrightError as error:
            yield f"{where}: {error}"
        columns = {k: np.asarray([v], np.int64) for k, v in choice.params}
        predicted = float(session.cost(match, columns)[0])
        if not np.isclose(choice.cost, predicted, rtol=1e-9):
            yield f"{where}: cost {choice.cost}, the cost slot says {predicted}"
        if not choice.why or "\n" in choice.why:
            yield f"{where}: no reason in one line: {choice.why!r}"
