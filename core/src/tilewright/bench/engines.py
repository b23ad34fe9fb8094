"""The worker's side of a measurement: an engine that holds one model, runs it and times it.

Every function here that is named by `Worker` runs in a process of its own. It imports only what its engine
needs, so that the peak memory it reports is the engine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilewright.arrays import load_arrays, save_arrays
from tilewright.errors import InputError
from tilewright.runtime.native import Array

Runner = Callable[[], list[Array]]


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
    run = ENGINES[argument["engine"]](argument["path"], feeds, argument["threads"])

    def handle(request: dict[str, Any]) -> Any:
        if request["do"] == "run":
            save_arrays(Path(request["outputs"]), run())
            return None
        return time_calls(run, request["seconds"])

    return handle


def time_calls(run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, after one call that is not counted; at least three, and for at least
    `seconds`.
    """
    run()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return samples


def _tilewright(path: str, feeds: dict[str, Array], threads: int) -> Runner:
    from tilewright.runtime.executable import load

    program = load(path, threads=threads)
    return lambda: program.run(None, feeds)


def _onnxruntime(path: str, feeds: dict[str, Array], threads: int) -> Runner:
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
    return lambda: _as_list(session.run(None, feeds))


def _reference(path: str, feeds: dict[str, Array], threads: int) -> Runner:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(path)
    return lambda: _as_list(evaluator.run(None, feeds))


def _as_list(outputs: Any) -> list[Array]:
    return list(outputs)


ENGINES: dict[str, Callable[[str, dict[str, Array], int], Runner]] = {
    "tilewright": _tilewright,
    "onnxruntime": _onnxruntime,
    "reference": _reference,
}
"""Every engine: what opens a model, and gives a function that runs it once on the feeds."""
