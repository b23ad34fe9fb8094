"""The scoreboard: what becomes of every test of ONNX's own suite, each in a worker that may die.

A test is *native* when it is compiled with all inputs open, *specialised* when some inputs are bound to their values,
*constant* when nothing is left to compute then, *fallback* when ONNX's reference evaluator ran a part of it, *declined*
when there is a clear error, *wrong* when an answer is, and *crashed* when the worker died or took too long.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from tilewright.testing.node_cases import KINDS
from tilewright.workers import Worker, WorkerError

if TYPE_CHECKING:
    import onnx

    from tilewright.ir.module import Module

COMPILED = ("native", "specialised", "constant")
PASSED = (*COMPILED, "fallback")
ALL_KINDS = (*KINDS, "crashed")
SECONDS = 120.0
"""Time limit of a test."""


@attrs.frozen
class Score:
    """What became of a test."""

    group: str
    name: str
    operator: str
    kind: str
    detail: str = ""


def start(target: str) -> Callable[[Mapping[str, str]], Any]:
    """The worker's side: runs the tests that it is asked for, compiled for `target`."""
    import tilewright
    from tilewright.compiler import plan_module
    from tilewright.config.binding import bind
    from tilewright.config.schema import Config
    from tilewright.plugins.manager import Registry
    from tilewright.runtime.immediate import run
    from tilewright.testing.node_cases import run_case
    from tilewright.testing.suite import suite

    settings = bind(Config(target=target, fallback="reference"), Registry())
    tests = {(x.group, x.case.name): x.case for x in suite()}

    def answer(request: Mapping[str, str]) -> Any:
        if not request:
            return [(group, name, case.operator) for (group, name), case in tests.items()]
        case = tests[request["group"], request["name"]]
        found = run_case(case, execute, whole)
        return found.kind, found.detail

    def execute(module: Module, inputs: Sequence[Any]) -> Sequence[Any]:
        return run(plan_module(module, settings).program, settings, inputs)

    def whole(
        model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], feeds: Mapping[str, Any]
    ) -> tuple[Sequence[Any], bool]:
        with tilewright.compile(model, config=settings.config, shapes=shapes, cache=False) as program:
            outputs = program.run(None, feeds)
            return outputs, program.stats.reference_runs > 0

    return answer


def play(target: str, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Score]:
    """Runs the whole suite.

    Args:
        progress: called with how many tests are done, and how many there are.
    """
    scores: list[Score] = []
    worker = _worker(target)
    try:
        tests = worker.call({}).value
        for group, name, operator in tests:
            try:
                kind, detail = worker.call({"group": group, "name": name}).value
            except WorkerError as error:
                if error.kind == "error":
                    raise
                kind, detail = "crashed", error.message
                worker.close()
                worker = _worker(target)
            scores.append(Score(group, name, operator, kind, detail))
            progress(len(scores), len(tests))
    finally:
        worker.close()
    return scores


def _worker(target: str) -> Worker:
    return Worker("tilewright.testing.scoreboard:start", target, time_limit=SECONDS)


def as_json(scores: Sequence[Score]) -> str:
    """The outcome of every test by group and name, as a document that can be compared with a later one."""
    groups: dict[str, dict[str, str]] = {}
    for score in scores:
        groups.setdefault(score.group, {})[score.name] = score.kind
    return json.dumps(groups, indent=0, sort_keys=True) + "\n"


def lost(before: str, scores: Iterable[Score]) -> list[Score]:
    """The tests that passed according to a document of `as_json` and do not now, or were compiled and fall back now."""
    known = json.loads(before)
    return [x for x in scores if _rank(known.get(x.group, {}).get(x.name)) > _rank(x.kind)]


def _rank(kind: str | None) -> int:
    return (kind in PASSED) + (kind in COMPILED)


def as_markdown(scores: Sequence[Score], versions: str) -> str:
    """The counts by group, with and without the twins that expand a function's body, and by operator."""
    lines = [
        "# ONNX's own test suite",
        "",
        f"Written by `tilewright scoreboard`. {versions}",
        "",
        "native: compiled with all inputs open. specialised: with the inputs bound that steer shapes. constant:",
        "nothing was left to compute then. fallback: ONNX's reference evaluator ran a part of it. declined: a clear",
        "error.",
        "",
    ]
    groups = {group: [x for x in scores if x.group == group] for group in dict.fromkeys(x.group for x in scores)}
    rows = []
    for group, found in groups.items():
        rows.append((group, found))
        plain = [x for x in found if "_expanded" not in x.name]
        if len(plain) < len(found):
            rows.append((f"{group}, without the expanded twins", plain))
    lines += _table("tests", rows)
    lines += ["", "## Operators", ""]
    operators = sorted({x.operator for x in groups.get("node", [])})
    lines += _table("operator", [(o, [x for x in groups["node"] if x.operator == o]) for o in operators])
    failed = [x for x in scores if x.kind not in PASSED]
    if failed:
        lines += ["", "## What does not run", ""]
        lines += ["| test | | why |", "|---|---|---|"]
        lines += [f"| {x.name} | {x.kind} | {' '.join(x.detail.split()).replace('|', '/')} |" for x in failed]
    return "\n".join(lines) + "\n"


def _table(head: str, rows: Sequence[tuple[str, Sequence[Score]]]) -> list[str]:
    lines = [f"| {head} | all | " + " | ".join(ALL_KINDS) + " |", "|---" * (2 + len(ALL_KINDS)) + "|"]
    for name, scores in rows:
        counts = Counter(x.kind for x in scores)
        cells = [str(counts[kind] or "") for kind in ALL_KINDS]
        lines.append(f"| {name} | {len(scores)} | " + " | ".join(cells) + " |")
    return lines
