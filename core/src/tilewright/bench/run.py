"""One model in several engines: compiled, checked, then timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from tilewright.artifact import Artifact, Manifest
from tilewright.bench.measure import (
    Limits,
    Measured,
    engine_worker,
    interleaved,
    model_file,
    outputs_of,
    thread_environment,
)
from tilewright.compare import Agreement, compare_outputs
from tilewright.runtime.feeds import refuse_others
from tilewright.runtime.random_feeds import random_feeds
from tilewright.workers import Worker, WorkerError

if TYPE_CHECKING:
    from tilewright.frontend.asked import Asked

OURS = "tilewright"


@frozen
class Compilation:
    """What to compile, and how.

    Args:
        target: target string, or None for the configuration's.
        config: path of a configuration, or a mapping, or None.
        shapes: shapes of inputs and sizes of dimensions.
        cache: whether the cache is used.
        strict: whether a broken plugin ends it.
    """

    target: str | None = None
    config: str | Mapping[str, Any] | None = None
    shapes: Asked = field(factory=dict)
    cache: bool = True
    strict: bool = False


@frozen
class Compiled:
    """An artifact that a worker has made.

    Args:
        path: where it lies.
        seconds: of the whole compilation, or of taking it from the cache.
        cached: which of the two it was.
        peak_bytes: peak memory of the process that compiled.
    """

    path: Path
    manifest: Manifest
    seconds: float
    cached: bool
    peak_bytes: int


@frozen
class ModelResult:
    """One model's results.

    Args:
        model: as it was named.
        compiled: the compilation.
        agreements: of our outputs with the first other engine's; empty when there is none.
        engines: what each engine did, ours first.
    """

    model: str
    compiled: Compiled
    agreements: tuple[Agreement, ...]
    engines: Mapping[str, Measured]

    @property
    def agree(self) -> bool:
        """Whether every output agrees."""
        return all(agreement.ok for agreement in self.agreements)

    @property
    def worst_error(self) -> float:
        """The largest norm error of an output."""
        return max((agreement.norm_error for agreement in self.agreements), default=0.0)

    def ratio(self, engine: str) -> float:
        """Our median time over that of `engine`: below 1, ours is the faster."""
        return self.engines[OURS].median / self.engines[engine].median

    def as_json(self) -> dict[str, Any]:
        """All of it, with every sample."""
        return {
            "model": self.model,
            "target": self.compiled.manifest.target,
            "kernels": self.compiled.manifest.kernels,
            "compile_seconds": self.compiled.seconds,
            "compile_cached": self.compiled.cached,
            "compile_peak_bytes": self.compiled.peak_bytes,
            "agree": self.agree,
            "outputs": [attrs.asdict(agreement) for agreement in self.agreements],
            "engines": {
                name: {"median_seconds": m.median, "peak_bytes": m.peak_bytes, "samples": m.samples}
                for name, m in self.engines.items()
            },
        }


def compile_in_worker(
    path: Path,
    artifact: Path,
    compilation: Compilation,
    threads: int,
    limits: Limits,
    started: Callable[[Worker], None] = lambda _: None,
) -> Compiled:
    """Compiles the model at `path` in a process of its own.

    Args:
        started: told of that process before it compiles.

    Raises:
        WorkerError: the compilation failed or broke a limit.
    """
    argument = {"model": str(path), "output": str(artifact), **attrs.asdict(compilation)}
    with Worker(
        "tilewright.bench.engines:compile_model",
        argument,
        time_limit=limits.seconds,
        memory_limit=limits.memory,
        environment=thread_environment(threads),
    ) as worker:
        started(worker)
        reply = worker.call(None)
    with Artifact(artifact) as opened:
        manifest = opened.manifest
    return Compiled(artifact, manifest, reply.value["seconds"], reply.value["cached"], reply.peak_bytes)


def bench_model(
    model: str,
    compilation: Compilation,
    *,
    others: Sequence[str] = ("onnxruntime",),
    threads: int,
    rounds: int = 5,
    seconds: float = 1.0,
    seed: int = 0,
    limits: Limits | None = None,
) -> ModelResult:
    """Compiles a model, compares its outputs with the first of the other engines, and times all of them in
    turns.

    Args:
        model: a path, or `light:NAME`.
        others: engines besides ours (`tilewright.bench.engines.ENGINES`).
        threads: of each engine.
        rounds: turns of each engine.
        seconds: least length of a turn.
        seed: of the inputs.

    Raises:
        WorkerError: an engine failed or broke a limit.
    """
    limits = limits or Limits()
    with model_file(model) as path, TemporaryDirectory(prefix="tilewright-") as folder, ExitStack() as stack:
        compiled = compile_in_worker(path, Path(folder, "program.tw"), compilation, threads, limits)
        refuse_others((*compiled.manifest.inputs, *compiled.manifest.outputs), "bench")
        feeds = random_feeds(compiled.manifest.examples(), seed)
        workers = [
            stack.enter_context(engine_worker(engine, source, feeds, threads, limits))
            for engine, source in [(OURS, compiled.path), *((other, path) for other in others)]
        ]
        agreements: list[Agreement] = []
        if others:
            names = [info.name for info in compiled.manifest.outputs]
            agreements = compare_outputs(names, outputs_of(workers[0]), outputs_of(workers[1]))
        measured: dict[str, Measured] = {}
        host = compiled.manifest.target.startswith("cpu")
        results = interleaved(workers, rounds, seconds, host=host)
        for engine, result in zip((OURS, *others), results, strict=True):
            if isinstance(result, WorkerError):
                raise result
            measured[engine] = result
    return ModelResult(model, compiled, tuple(agreements), measured)
