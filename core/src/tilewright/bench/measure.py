"""The asking side of a measurement: engines in workers, which take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field, frozen

from tilewright.arrays import load_arrays, save_arrays
from tilewright.runtime.native import Array
from tilewright.testing.seeded import LIGHT_PREFIX
from tilewright.workers import Worker, WorkerError

REST = 0.3
"""Seconds before a turn on the host: threads of the engine before spin on, and make this one up to ten times slower."""


@frozen
class Limits:
    """What one worker may take: seconds per request, and bytes of private memory (None: any)."""

    seconds: float = 600.0
    memory: int | None = None


@define
class Measured:
    """What one engine did: seconds of every timed call, and the peak memory of its process in bytes."""

    samples: list[float] = field(factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, over the median."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / 2 / self.median


@contextmanager
def model_file(model: str, seed: int = 0) -> Iterator[Path]:
    """The path of a model: `model` itself, or a temporary file for `light:NAME`."""
    if not model.startswith(LIGHT_PREFIX):
        yield Path(model)
        return
    import onnx

    from tilewright.testing.seeded import light_model

    with TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, f"{model.removeprefix(LIGHT_PREFIX)}.onnx")
        onnx.save(light_model(model.removeprefix(LIGHT_PREFIX), seed), path)
        yield path


@contextmanager
def engine_worker(
    engine: str, path: Path, feeds: Mapping[str, Array], threads: int, limits: Limits
) -> Iterator[Worker]:
    """A worker that holds the model at `path` in an engine, with its inputs.

    Raises:
        WorkerError: the engine cannot open the model.
    """
    with TemporaryDirectory(prefix="tilewright-") as folder:
        file = Path(folder, "feeds")
        save_arrays(file, list(feeds.values()))
        argument = {
            "engine": engine,
            "path": str(path),
            "feeds": str(file),
            "names": list(feeds),
            "threads": threads,
        }
        with Worker(
            "tilewright.bench.engines:engine",
            argument,
            time_limit=limits.seconds,
            memory_limit=limits.memory,
            environment=thread_environment(threads),
        ) as worker:
            yield worker


def thread_environment(threads: int) -> dict[str, str]:
    """Variables that make the libraries of a worker use `threads` threads."""
    names = ("TILEWRIGHT_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def outputs_of(worker: Worker) -> list[Array]:
    """The outputs of one run in an engine's worker."""
    with TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, "outputs")
        worker.call({"do": "run", "outputs": str(path)})
        return load_arrays(path)


def interleaved(workers: Sequence[Worker], rounds: int, seconds: float, *, host: bool) -> list[Measured | WorkerError]:
    """Times engines in turns, so that what disturbs the machine disturbs all of them alike.

    Args:
        rounds: how often each has its turn.
        seconds: least length of a turn.
        host: whether the programs run on the host.

    Returns:
        For each worker what it did, or why it failed; after a failure the others go on.
    """
    results: list[Measured | WorkerError] = [Measured() for _ in workers]
    for _ in range(rounds):
        for position, worker in enumerate(workers):
            result = results[position]
            if isinstance(result, WorkerError):
                continue
            time.sleep(REST if host else 0.0)
            try:
                reply = worker.call({"do": "time", "seconds": seconds})
            except WorkerError as error:
                results[position] = error
            else:
                result.samples += reply.value
                result.peak_bytes = reply.peak_bytes
    return results
