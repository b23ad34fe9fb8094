"""The fuzzer: random graphs of many operators, compared with ONNX's reference evaluator.

`fuzz` runs in this process, on any executor. `campaign` compiles for a target, in a worker that may die;
`write_reproducer` writes what is needed to see a failure again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import onnx

from tilewright.errors import UnsupportedError
from tilewright.frontend import load
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.verify import verify_module
from tilewright.testing.fuzz_graphs import Graph, draw_graph
from tilewright.workers import Worker, WorkerError

NORM, ABSOLUTE = 1e-4, 1e-3
"""A float result agrees when ‖a − b‖ / ‖b‖ is at most the one, or every difference at most the other."""
SECONDS = 120.0
"""Time limit of a graph in a worker."""
TASK = "tilewright.testing.fuzz:start"

Execute = Callable[[Module, Sequence[Any]], Sequence[Any]]
Kind = Literal["agrees", "declined", "wrong", "failed", "crashed"]


@attrs.frozen
class Failure:
    """A graph that came out wrong.

    Args:
        kind: wrong (another answer), failed (an exception), crashed (the worker died or took too long).
    """

    seed: int
    kind: Kind
    detail: str


@attrs.define
class Report:
    """What came of a run.

    Args:
        graphs: how many were drawn.
        operators: nodes of graphs that agreed, by operator.
        declined: graphs that were refused with a clear error, by its text.
    """

    graphs: int = 0
    operators: Counter[str] = attrs.field(factory=Counter)
    failures: list[Failure] = attrs.field(factory=list)
    declined: Counter[str] = attrs.field(factory=Counter)

    def add(self, seed: int, kind: Kind, detail: str, operators: Iterable[str]) -> None:
        """Counts a graph."""
        self.graphs += 1
        match kind:
            case "agrees":
                self.operators.update(operators)
            case "declined":
                self.declined[detail] += 1
            case _:
                self.failures.append(Failure(seed, kind, detail))


def fuzz(seeds: Iterable[int], execute: Execute) -> Report:
    """Draws a graph from each seed and compares.

    Args:
        execute: runs a module on arrays.
    """
    report = Report()
    for seed in seeds:
        graph = draw_graph(seed)
        report.add(seed, *judge(graph, execute), graph.operators)
    return report


def judge(graph: Graph, execute: Execute) -> tuple[Kind, str]:
    """What becomes of a graph, and why."""
    try:
        module = load(graph.model)
        verify_module(module)
        found = delivered(module.output_names, module.lengths, execute(module, graph.feeds))
    except UnsupportedError as error:
        return "declined", error.message
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return "failed", f"{type(error).__name__}: {error}"
    wrong = [w for w in map(difference, (x.name for x in graph.model.graph.output), found, graph.expected) if w]
    return ("wrong", f"{', '.join(wrong)} in {' '.join(graph.operators)}") if wrong else ("agrees", "")


def difference(name: str, ours: Any, theirs: Any) -> str:
    """How an output differs from the reference's, "" if it does not."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return f"{name} is {ours.dtype}{list(ours.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
    if ours.dtype.kind != "f":
        return f"{name} differs in {int((ours != theirs).sum())} elements" if (ours != theirs).any() else ""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.where(finite, 0, a), np.where(finite, 0, b), equal_nan=True):
        return f"{name} has other infinities or NaN"
    delta = np.abs(a[finite] - b[finite])
    norm = float(np.linalg.norm(delta)) / (float(np.linalg.norm(b[finite])) or 1.0)
    return "" if norm <= NORM or float(delta.max(initial=0)) <= ABSOLUTE else f"{name} differs by {norm:.2g}"


def start(target: str) -> Callable[[int], Any]:
    """The worker's side: judges the graphs of the seeds that it is asked for, compiled for `target`."""
    from tilewright.compiler import plan_module
    from tilewright.config.binding import bind
    from tilewright.config.schema import Config
    from tilewright.plugins.manager import Registry
    from tilewright.runtime.immediate import run

    settings = bind(Config(target=target), Registry())

    def answer(seed: int) -> Any:
        graph = draw_graph(seed)
        kind, detail = judge(graph, lambda module, feeds: run(plan_module(module, settings).program, settings, feeds))
        return kind, detail, graph.operators

    return answer


def campaign(
    seeds: Iterator[int],
    target: str,
    *,
    until: float = float("inf"),
    stop: bool = False,
    progress: Callable[[Report], None] = lambda report: None,
    task: str = TASK,
    seconds: float = SECONDS,
) -> Report:
    """Judges the graphs of the seeds in workers.

    Args:
        until: time (`time.monotonic`) to stop at.
        stop: whether the first failure ends it.
        progress: called after each graph.
        task: the worker's side.
        seconds: time limit of a graph.
    """
    report = Report()
    worker = Worker(task, target, time_limit=seconds)
    try:
        for seed in seeds:
            if time.monotonic() >= until or (stop and report.failures):
                break
            try:
                report.add(seed, *worker.call(seed).value)
            except WorkerError as error:
                if error.kind == "error":
                    raise
                report.add(seed, "crashed", f"{error.message} {error.remedy}".strip(), ())
                worker.close()
                worker = Worker(task, target, time_limit=seconds)
            progress(report)
    finally:
        worker.close()
    return report


def write_reproducer(folder: Path, failure: Failure, target: str) -> Path:
    """Writes model, inputs, expected outputs and what went wrong to a folder of `folder`; returns it.

    The inputs are NAME.npy, as `tilewright run --input NAME=FILE` takes them.
    """
    graph = draw_graph(failure.seed)
    place = folder / f"seed-{failure.seed}"
    place.mkdir(parents=True, exist_ok=True)
    onnx.save(graph.model, place / "model.onnx")
    _save(place, [x.name for x in graph.model.graph.input], graph.feeds)
    _save(place / "expected", [x.name for x in graph.model.graph.output], graph.expected)
    text = f"{failure.kind}: {failure.detail}\n\ntilewright fuzz --seed {failure.seed} --count 1 --target {target}\n"
    (place / "failure.txt").write_text(text, encoding="utf-8")
    return place


def _save(folder: Path, names: Sequence[str], arrays: Sequence[Any]) -> None:
    folder.mkdir(exist_ok=True)
    for name, array in zip(names, arrays, strict=True):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def as_data(report: Report) -> Mapping[str, Any]:
    """The report as JSON values."""
    return {
        "graphs": report.graphs,
        "operators": dict(report.operators.most_common()),
        "declined": dict(report.declined.most_common()),
        "failures": [attrs.asdict(x) for x in report.failures],
    }
