"""Running a study: every arm compiled and checked in a process of its own, then all timed in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field, frozen

from tilewright.artifact.manifest import WEIGHTS
from tilewright.bench.measure import Limits, Measured, engine_worker, interleaved, model_file, outputs_of
from tilewright.bench.run import OURS, Compilation, Compiled, compile_in_worker
from tilewright.compare import compare_outputs
from tilewright.runtime.native import Array
from tilewright.runtime.random_feeds import random_feeds
from tilewright.study.design import Arm
from tilewright.workers import Crew, Worker, WorkerError, turn


@define
class ArmResult:
    """What became of an arm on one model.

    Args:
        state: `ok`; `failed` (it could not be compiled, run or timed); `differs` (its outputs are wrong, so
            it is not timed).
        why: of a state that is not `ok`.
        same_as: name of an earlier arm with the very same program, whose measurement it shares.
        error: largest norm error of an output.
        measured: how it ran.
    """

    arm: Arm
    state: str = "ok"
    why: str = ""
    same_as: str = ""
    error: float = 0.0
    compiled: Compiled | None = None
    measured: Measured | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it, with every sample."""
        compiled, measured = self.compiled, self.measured
        return {
            "arm": self.arm.name,
            "levels": dict(self.arm.levels),
            "swept": dict(self.arm.swept),
            "config": dict(self.arm.mapping),
            "state": self.state,
            "why": self.why,
            "same_as": self.same_as,
            "error": self.error,
            "kernels": compiled.manifest.kernels if compiled else None,
            "compile_seconds": compiled.seconds if compiled else None,
            "compile_cached": compiled.cached if compiled else None,
            "median_seconds": measured.median if measured else None,
            "peak_bytes": measured.peak_bytes if measured else None,
            "samples": measured.samples if measured else [],
        }


@frozen
class Settings:
    """How a study is run.

    Args:
        compilation: target, shapes, cache and strictness; its configuration is replaced by each arm's.
        reference: the engine that outputs are compared with; it is timed as well.
        threads: of every engine.
        rounds: turns of every arm.
        seconds: least length of a turn.
        seed: of the inputs.
        limits: of every process.
        jobs: arms that are compiled side by side; compilations then take longer.
    """

    compilation: Compilation
    threads: int
    reference: str = "onnxruntime"
    rounds: int = 5
    seconds: float = 0.5
    seed: int = 0
    limits: Limits = field(factory=Limits)
    jobs: int = 1


@frozen
class ModelStudy:
    """The results of every arm on one model, and the reference engine's own time."""

    model: str
    reference: str
    reference_measured: Measured | None
    arms: Sequence[ArmResult]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        measured = self.reference_measured
        return {
            "model": self.model,
            "reference": self.reference,
            "reference_median_seconds": measured.median if measured else None,
            "arms": [arm.as_json() for arm in self.arms],
        }


def study_model(
    model: str, arms: Sequence[Arm], settings: Settings, progress: Callable[[str], None] = lambda _: None
) -> ModelStudy:
    """Runs every arm on one model.

    Args:
        progress: told what is being done.

    Raises:
        WorkerError: the reference engine cannot run the model.
        BusyError: others measure on the device for longer than a process may take.
    """
    results = [ArmResult(arm) for arm in arms]
    with model_file(model) as path, TemporaryDirectory(prefix="tilewright-") as folder, ExitStack() as stack:
        _compile_all(results, path, Path(folder), settings, lambda arm: progress(f"{model}: compiling {arm.name}"))
        compiled = [result.compiled for result in results if result.compiled]
        if not compiled:
            return ModelStudy(model, settings.reference, None, results)
        feeds = random_feeds(compiled[0].manifest.examples(), settings.seed)
        reference = stack.enter_context(
            engine_worker(settings.reference, path, feeds, settings.threads, settings.limits)
        )
        expected = outputs_of(reference)
        workers: dict[int, Worker] = {}
        _mark_equal(results)
        for number, result in enumerate(results):
            if result.compiled and not result.same_as:
                progress(f"{model}: checking {result.arm.name}")
                worker = _checked(result, feeds, expected, settings, stack)
                if worker is not None:
                    workers[number] = worker
        progress(f"{model}: timing {len(workers)} programs")
        kind, engines = compiled[0].manifest.target.partition(":")[0], [reference, *workers.values()]
        with turn(kind, settings.limits.seconds):
            own, *measured = interleaved(engines, settings.rounds, settings.seconds, host=kind == "cpu")
        for number, outcome in zip(workers, measured, strict=True):
            if isinstance(outcome, WorkerError):
                results[number].state, results[number].why = "failed", str(outcome)
            else:
                results[number].measured = outcome
    _share(results)
    return ModelStudy(model, settings.reference, own if isinstance(own, Measured) else None, results)


def _compile_all(
    results: Sequence[ArmResult], path: Path, folder: Path, settings: Settings, progress: Callable[[Arm], None]
) -> None:
    """Compiles each arm, several side by side. An interrupt ends them all."""
    base = settings.compilation
    crew = Crew()
    left = deque(enumerate(results))

    def compile_rest() -> None:
        while not crew.ended:
            try:
                number, result = left.popleft()
            except IndexError:
                return
            progress(result.arm)
            compilation = Compilation(base.target, result.arm.mapping, base.shapes, base.cache, base.strict)
            artifact = folder / f"{number}.tw"
            try:
                result.compiled = compile_in_worker(
                    path, artifact, compilation, settings.threads, settings.limits, crew.add
                )
            except WorkerError as error:
                result.state, result.why = "failed", str(error)

    crew.run(compile_rest, settings.jobs)


def _checked(
    result: ArmResult,
    feeds: Mapping[str, Array],
    expected: Sequence[Array],
    settings: Settings,
    stack: ExitStack,
) -> Worker | None:
    """The worker that holds an arm's program, if its outputs agree with the reference's."""
    assert result.compiled is not None
    try:
        worker = stack.enter_context(
            engine_worker(OURS, result.compiled.path, feeds, settings.threads, settings.limits)
        )
        outputs = outputs_of(worker)
    except WorkerError as error:
        result.state, result.why = "failed", str(error)
        return None
    names = [info.name for info in result.compiled.manifest.outputs]
    agreements = compare_outputs(names, outputs, expected)
    result.error = max((agreement.norm_error for agreement in agreements), default=0.0)
    wrong = next((agreement for agreement in agreements if not agreement.ok), None)
    if wrong is not None:
        result.state, result.why = "differs", f"output {wrong.name}: {wrong.why}"
        return None
    return worker


def _mark_equal(results: Sequence[ArmResult]) -> None:
    """Compilation is deterministic, so equal plans are equal libraries and weights."""
    first: dict[tuple[str, ...], ArmResult] = {}
    for result in results:
        if result.compiled is None:
            continue
        sections = result.compiled.manifest.sections
        libraries = [variant.library for variant in result.compiled.manifest.variants]
        program = tuple(sections[name].sha256 for name in (*libraries, WEIGHTS))
        other = first.setdefault(program, result)
        if other is not result:
            result.same_as = other.arm.name


def _share(results: Sequence[ArmResult]) -> None:
    by_name = {result.arm.name: result for result in results}
    for result in results:
        if result.same_as:
            other = by_name[result.same_as]
            result.state, result.why = other.state, other.why
            result.error, result.measured = other.error, other.measured
