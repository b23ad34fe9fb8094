"""The worker's side of a measurement: an engine that holds one model, runs it and times it.

Every function here that is named by `Worker` runs in a process of its own. It imports only what its engine
needs, so that the peak memory it reports is the engine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.arrays import load_arrays, save_arrays
from tilewright.errors import InputError
from tilewright.runtime.native import Array

if TYPE_CHECKING:
    from tilewright.runtime.executable import Executable

Runner = Callable[[], list[Array]]

_MOST_ROUNDS = 2000
"""Timed runs of a turn on a device, where a short program could have very many."""


def compile_model(argument: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """Task: compiles `model` and writes the artifact to `output`.

    The argument has `model`, `output`, `target`, `config` (a mapping or None), `shapes`, `cache`, `strict`.
    """
    from tilewright.api import compile_artifact, settings_for

    def handle(request: Any) -> dict[str, Any]:
        start = time.perf_counter()
        settings = settings_for(argument["target"], argument["config"], strict=argument["strict"])
        artifact, seconds = compile_artifact(
            argument["model"], settings, shapes=argument["shapes"], cache=argument["cache"]
        )
        took = time.perf_counter() - start
        with artifact:
            artifact.copy_to(argument["output"])
        return {"seconds": took, "cached": seconds is None}

    return handle


def engine(argument: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """Task: opens a model in one engine and answers `run` and `time` requests.

    The argument has `engine` (a key of `ENGINES`), `path` (of the model, or of the artifact), `feeds` (a file
    of `save_arrays`, in the order of `names`), `names` and `threads`.
    """
    names: list[str] = argument["names"]
    feeds = dict(zip(names, load_arrays(Path(argument["feeds"])), strict=True))
    held = ENGINES[argument["engine"]](argument["path"], feeds, argument["threads"])

    def handle(request: dict[str, Any]) -> Any:
        if request["do"] == "run":
            save_arrays(Path(request["outputs"]), held())
            return None
        return held.times(request["seconds"])

    return handle


class Engine:
    """An engine that holds a model and its inputs; a call runs it once and gives the outputs."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def __call__(self) -> list[Array]:
        return self._run()

    def times(self, seconds: float) -> list[float]:
        """Seconds of each of at least three calls, and for at least `seconds`, after one that is not counted."""
        self._run()
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while len(samples) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            self._run()
            samples.append(time.perf_counter() - start)
        return samples


class _OnDevice(Engine):
    """A program of ours on a device: what its runs take there, without transfers."""

    def __init__(self, program: Executable, feeds: dict[str, Array]) -> None:
        super().__init__(lambda: program.run(None, feeds))
        self._program, self._feeds = program, feeds

    def times(self, seconds: float) -> list[float]:
        once = min(self._program.measure(self._feeds, 3))
        rounds = min(max(int(seconds / max(once, 1e-7)), 3), _MOST_ROUNDS)
        return self._program.measure(self._feeds, rounds)


def _tilewright(path: str, feeds: dict[str, Array], threads: int) -> Engine:
    from tilewright.runtime.executable import load

    program = load(path, threads=threads)
    if not program.target.startswith("cpu"):
        return _OnDevice(program, feeds)
    return Engine(lambda: program.run(None, feeds))


def _onnxruntime(path: str, feeds: dict[str, Array], threads: int) -> Engine:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("ONNX Runtime is not installed.", "Install it with pip install onnxruntime.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(
            f"ONNX Runtime cannot run the model: {error}", "Compare with the reference evaluator instead."
        ) from error
    return Engine(lambda: list(session.run(None, feeds)))


def _reference(path: str, feeds: dict[str, Array], threads: int) -> Engine:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(path)
    return Engine(lambda: list(evaluator.run(None, feeds)))


ENGINES: dict[str, Callable[[str, dict[str, Array], int], Engine]] = {
    "tilewright": _tilewright,
    "onnxruntime": _onnxruntime,
    "reference": _reference,
}
"""Every engine: what opens a model, and holds it with the feeds."""
