"""`python -m benchmarks.control_flow.placements`: Grinder's placement of control flow beside a sweep over all of them.

For each cell every loop and branch is put at every level, those of one kind (equal by all predicted costs) together;
each placement is a program of its own, which is measured, or predicted where there is no quiet device. The table says
how the policy's placement compares with the best one, and its planning with the time of the sweep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from benchmarks.control_flow.cells import FOLDER, Cell, cells
from benchmarks.results import line
from benchmarks.sessions import add_selection, chosen
from tilewright.compiler import Plan, device_of, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError
from tilewright.frontend import load
from tilewright.ir import dtypes
from tilewright.ir.module import Module
from tilewright.ir.program import Program, launches
from tilewright.ir.subgrids import Subgrids
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import loaded
from tilewright_grinder.options import GrinderOptions
from tilewright_grinder.placement.forks import Spread
from tilewright_grinder.placement.predict import Predictor, meeting_seconds

LEVELS = ("host", "graph", "grid", "block")
CLOSE = 1.15
"""A placement counts as good that takes at most so many times what the best one takes."""
RUNS, WARM = 15, 3

Levels = Mapping[str, str]
Seconds = Callable[[Program], float]


@attrs.frozen
class Swept:
    """What came of one cell.

    Args:
        exhaustive: whether all placements were tried; else kinds were taken in turn, until none changed.
        tried: (level of each kind, seconds), those that are possible.
        policy: seconds of the placement that prediction chose.
        planning: seconds that planning with it took.
        sweeping: seconds that the sweep took.
    """

    cell: str
    exhaustive: bool
    tried: tuple[tuple[Levels, float], ...]
    policy: float
    planning: float
    sweeping: float

    @property
    def best(self) -> float:
        return min(seconds for _, seconds in self.tried)


def sweep(cell: Cell, target: str, threads: int, measure: bool, most: int, rewrite: bool = True) -> Swept:
    """Tries the placements of a cell.

    Args:
        measure: whether programs are run, not only predicted.
        most: placements beyond which kinds are taken in turn.
        rewrite: whether control flow is rewritten before it is placed.
    """
    given = cell.given()
    module = given.model if isinstance(given.model, Module) else load(given.model)
    feeds = [np.asarray(given.feeds[name]) for name in module.input_names or given.feeds]
    chosen_by = _Planner(module, target, threads, rewrite)
    seconds = chosen_by.measured(feeds) if measure else chosen_by.predicted
    begin = time.perf_counter()
    plan = chosen_by.plan({})
    planning = time.perf_counter() - begin
    policy = seconds(plan.program)
    begin = time.perf_counter()
    everything = chosen_by.plan({"gain": 1.0})
    kinds, possible = _kinds(everything), _possible(everything)
    tried: dict[tuple[str, ...], float] = {}

    def attempt(levels: tuple[str, ...]) -> float:
        if levels not in tried:
            named = {x: level for names, level in zip(kinds, levels, strict=True) for x in names}
            try:
                tried[levels] = seconds(chosen_by.plan({"levels": named}).program)
            except InputError:  # a loop of the host inside a launch, what no launch can hold, or a graph not all of it
                tried[levels] = float("inf")
        return tried[levels]

    exhaustive = len(possible) ** len(kinds) <= most
    if exhaustive:
        for levels in itertools.product(possible, repeat=len(kinds)):
            attempt(levels)
    else:
        _in_turn(len(kinds), possible, attempt)
    found = [(dict(zip(map(min, kinds), k, strict=True)), x) for k, x in tried.items() if np.isfinite(x)]
    return Swept(cell.name, exhaustive, tuple(found), policy, planning, time.perf_counter() - begin)


def _in_turn(kinds: int, possible: Sequence[str], attempt: Callable[[tuple[str, ...]], float]) -> None:
    """One kind after the other at each level, with the others at the best so far.

    From everything on the host, or in the graph if that is faster: one graph has all of a program or nothing.
    """
    best = min(((x,) * kinds for x in ("host", "graph") if x in possible), key=attempt)
    changed = True
    while changed:
        changed = False
        for at in range(kinds):
            options = [(*best[:at], level, *best[at + 1 :]) for level in possible]
            better = min(options, key=attempt)
            if attempt(better) < attempt(best):
                best, changed = better, True


@attrs.frozen
class _Planner:
    """Plans a module, and says how long a program takes."""

    module: Module
    target: str
    threads: int
    rewrite: bool

    def settings(self, options: Mapping[str, Any]) -> Settings:
        slots = {"control_rewrite": "grinder" if self.rewrite else "identity", "control_place": "grinder"}
        config = load_config({"target": self.target, "slots": slots, "options": {"grinder": dict(options)}})
        return bind(config, Registry(), threads=self.threads)

    def plan(self, options: Mapping[str, Any]) -> Plan:
        return plan_module(self.module, self.settings(options))

    def predicted(self, program: Program) -> float:
        """By the model that the policy goes by: says whether its choices, one by one, are the best together."""
        places = program.storage.placements
        device = device_of(self.settings({}))
        predictor = Predictor(
            device,
            program.kernels,
            program.symbols,
            lambda name: places[name].value if name in places else None,
        )
        called = program.procedures.values()
        calling = [x for x in launches(program.steps) if x.calls]
        units, led = max((x.envelope.units for x in calling), default=1), any(x.led for x in calling)
        how = max((x.subgrids for x in calling), key=lambda x: x.levels, default=Subgrids())

        def each(on: int, apart: bool) -> float:
            inside = [predictor.parts(x.parts, units, led, on, apart) for x in called if x.parts]
            return sum((*inside, *(predictor.steps(x.host) for x in called if not x.parts))) / max(len(called), 1)

        call = Spread(how, units, each, meeting_seconds(device)).seconds(GrinderOptions().calls)
        return attrs.evolve(predictor, called=lambda _: call).steps(program.body)

    def measured(self, feeds: Sequence[Any]) -> Seconds:
        """The median of some runs in this process, transfers included."""

        def seconds(program: Program) -> float:
            outputs = [np.zeros(v.static_shape(), dtypes.to_numpy(v.dtype)) for v in program.outputs]
            times = []
            with loaded(program, self.settings({}), self.threads) as native:
                for _ in range(WARM + RUNS):
                    begin = time.perf_counter()
                    native.run([np.ascontiguousarray(x) for x in feeds], outputs)
                    times.append(time.perf_counter() - begin)
            return statistics.median(times[WARM:])

        return seconds


def _kinds(plan: Plan) -> list[tuple[str, ...]]:
    """The loops and branches that may run elsewhere than on the host, those of equal predicted costs together."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for x in plan.decisions:
        if x.slot == "control_place" and x.alternatives:
            costs = zip((x.chosen["level"], *(y["level"] for y in x.alternatives)), x.costs, strict=True)
            found.setdefault(tuple(sorted((a, f"{b:.4g}") for a, b in costs)), []).append(x.subject)
    return [tuple(names) for names in found.values()]


def _possible(plan: Plan) -> tuple[str, ...]:
    """The levels at which some loop or branch may run."""
    placed = [x for x in plan.decisions if x.slot == "control_place"]
    found = {y["level"] for x in placed for y in (x.chosen, *x.alternatives)}
    return tuple(x for x in LEVELS if x in found)


def rows(found: Sequence[Swept]) -> Iterator[str]:
    """The table, and what is asked of the policy."""
    yield line(["cell", "placements", "best µs", "policy µs", "policy / best", "planning s", "sweep s"])
    yield "|---|---|---|---|---|---|---|"
    for x in found:
        count = f"{len(x.tried)}{'' if x.exhaustive else ' in turn'}"
        times = [f"{1e6 * x.best:.1f}", f"{1e6 * x.policy:.1f}", f"{x.policy / x.best:.2f}"]
        yield line([x.cell, count, *times, f"{x.planning:.2f}", f"{x.sweeping:.2f}"])
    close = sum(x.policy <= CLOSE * x.best for x in found)
    share = sum(x.planning for x in found) / max(sum(x.sweeping for x in found), 1e-9)
    yield f"\nWithin {CLOSE - 1:.0%} of the best: {close} of {len(found)}. Planning took {share:.3f} of the sweeps."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 1 when the policy is not close to the best on four fifths of the cells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control_flow.placements", description=__doc__)
    add_selection(parser, FOLDER / "cells.csv")
    parser.add_argument("--threads", type=int, default=2, help="threads on a CPU (default: 2)")
    parser.add_argument("--predict", action="store_true", help="compare predicted times; needs no device")
    parser.add_argument("--most", type=int, default=256, help="placements up to which all are tried (default: 256)")
    parser.add_argument("--plain", action="store_true", help="place control flow as the model has it, not rewritten")
    parser.add_argument("--small", action="store_true", help="the models in the sizes for tests")
    parser.add_argument("--out", type=Path, help="file for all times, as JSON")
    options = parser.parse_args(arguments)
    tiny = Cell("seq2seq", 0, 1, small=True).given().model
    _Planner(load(tiny), options.target, options.threads, True).plan({})  # what is imported once is not planning
    found = [
        sweep(cell, options.target, options.threads, not options.predict, options.most, not options.plain)
        for cell in chosen(cells(options.cells, options.small), options)
    ]
    if options.out is not None:
        options.out.write_text(json.dumps([attrs.asdict(x) for x in found], indent=1) + "\n")
    sys.stdout.write("\n".join(rows(found)) + "\n")
    return int(sum(x.policy <= CLOSE * x.best for x in found) < 0.8 * len(found))


if __name__ == "__main__":
    sys.exit(main())
