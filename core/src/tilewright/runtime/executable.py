"""A compiled model, ready to run."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tilewright.artifact import Artifact, Manifest, TensorInfo
from tilewright.errors import InputError
from tilewright.plugins.manager import Registry
from tilewright.runtime.feeds import check_names, prepare
from tilewright.runtime.native import TaskTime
from tilewright.runtime.pipeline import Environment, Pipeline, open_pipeline
from tilewright.runtime.specialise import Jit, as_jit
from tilewright.runtime.stats import Stats
from tilewright.threads import thread_count


class Executable:
    """A compiled model. `tilewright.compile` and `tilewright.load` make it.

    It may be used from several threads; their calls of `run` take turns.

    Attributes:
        compile_seconds: how long its compilation took, or None if it was loaded from a file or the cache.
    """

    compile_seconds: float | None = None

    def __init__(self, artifact: Artifact, pipeline: Pipeline, stats: Stats) -> None:
        self._artifact = artifact
        self._pipeline: Pipeline | None = pipeline
        self._stats = stats
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """What the artifact says about itself."""
        return self._artifact.manifest

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, dtype and shape of each input, in the model's order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Name, dtype and shape of each output, in the model's order."""
        return self.manifest.outputs

    @property
    def target(self) -> str:
        """The canonical target string that it was compiled for."""
        return self.manifest.target

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """What each slot decided for each native program, with alternatives, costs and reasons."""
        return [x for variant in self.manifest.variants for x in self._artifact.decisions(variant)]

    @property
    def stats(self) -> Stats:
        """What it has done so far, a copy."""
        with self._lock:
            return copy.copy(self._stats)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, object]) -> list[Any]:
        """Computes the model, as ONNX Runtime's method of this name does.

        Args:
            output_names: which outputs, in which order; None for all.
            feeds: input name → NumPy array, or an object with DLPack in host memory. For models that fall back also:
                arrays of `str`, a list for a sequence, None for an empty optional.

        Returns:
            New C-contiguous arrays, one per output; they offer DLPack in turn. Other values as in `feeds`.

        Raises:
            InputError: a name, dtype or shape is not what the model declares, or the program was closed.
        """
        names = [info.name for info in self.outputs]
        if output_names is not None:
            check_names("output", output_names, self.outputs)
        arrays = prepare(feeds, self.inputs)
        with self._lock:
            results = self._opened().run(arrays)
            self._stats.runs += 1
        if output_names is None:
            return results
        return [results[names.index(name)] for name in output_names]

    def measure(self, feeds: Mapping[str, object], rounds: int) -> list[float]:
        """Seconds of each of `rounds` runs on `feeds`, after one that is not counted.

        What goes to a device before a run and comes back after it is left out, unless parts of the model are compiled
        when they run or are run by ONNX's evaluator: then the clock says how long the whole took.

        Raises:
            InputError: as `run`.
        """
        arrays = prepare(feeds, self.inputs)
        with self._lock:
            seconds = self._opened().measure(arrays, rounds)
            self._stats.runs += 1 + rounds
        return seconds

    def _opened(self) -> Pipeline:
        if self._pipeline is None:
            raise InputError("This program was closed.", "Load it again.")
        return self._pipeline

    def timeline(self) -> dict[str, list[TaskTime]]:
        """What units ran in the last run, by launch; nothing unless the pass `trace` was on (CUDA)."""
        with self._lock:
            return {} if self._pipeline is None else self._pipeline.timeline()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the artifact to `path`; `tilewright.load` reads it, in this or another process."""
        self._artifact.copy_to(path)

    def close(self) -> None:
        """Frees what the program holds; it cannot run any more. Doing so twice is no error."""
        with self._lock:
            pipeline, self._pipeline = self._pipeline, None
            if pipeline is not None:
                pipeline.close()

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Executable {self.manifest.model!r} for {self.target}>"


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    registry: Registry | None = None,
    jit: Jit | bool = True,
) -> Executable:
    """The program in an artifact.

    Loading an artifact runs native code that is in it: load only files that you trust.

    Args:
        path: a file that `Executable.save` or `tilewright compile -o` wrote.
        threads: worker threads of `run`; default `TILEWRIGHT_NUM_THREADS`, or the processors of this process.
        registry: where the backend's loader is looked up; by default among the installed plugins.
        jit: whether a model in the artifact may be compiled by `run`, or how.

    Raises:
        ArtifactError: the file is no sound artifact.
        InputError: the plugin that can load it is missing, this machine cannot run it, or it is compiled when it runs
            and `jit` forbids that.
    """
    return load_artifact(Artifact(path), threads=threads, registry=registry, jit=jit)


def load_artifact(
    artifact: Artifact, *, threads: int | None = None, registry: Registry | None = None, jit: Jit | bool = True
) -> Executable:
    """The program in an artifact that is open; it belongs to the result from now on. See `load`."""
    stats = Stats()
    try:
        plugins = Registry() if registry is None else registry
        workers = thread_count(threads)
    except BaseException:
        artifact.close()
        raise
    return Executable(artifact, open_pipeline(artifact, Environment(plugins, workers, as_jit(jit), stats)), stats)
