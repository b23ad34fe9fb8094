"""A compiled model, ready to run."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.artifact import Artifact, ArtifactError, Manifest, TensorInfo, damaged
from tilewright.errors import DamagedError, InputError
from tilewright.ir import dtypes
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend
from tilewright.runtime.feeds import check_names, prepare
from tilewright.runtime.native import Array, Loader, NativeProgram
from tilewright.runtime.threads import thread_count

_ALIGNMENT = 64


class Executable:
    """A compiled model. `tilewright.compile` and `tilewright.load` make it.

    It may be used from several threads; their calls of `run` take turns.

    Attributes:
        compile_seconds: how long its compilation took, or None if it was loaded from a file or the cache.
    """

    compile_seconds: float | None = None

    def __init__(self, artifact: Artifact, native: NativeProgram) -> None:
        self._artifact = artifact
        self._native: NativeProgram | None = native
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
        """What each slot decided, with alternatives, costs and reasons."""
        return self._artifact.decisions()

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, object]) -> list[Array]:
        """Computes the model, as ONNX Runtime's method of this name does.

        Args:
            output_names: which outputs, in which order; None for all.
            feeds: input name → NumPy array, or an object with DLPack in host memory.

        Returns:
            New C-contiguous arrays, one per output; they offer DLPack in turn.

        Raises:
            InputError: a name, dtype or shape is not what the model declares, or the program was closed.
        """
        names = [info.name for info in self.outputs]
        if output_names is not None:
            check_names("output", output_names, self.outputs)
        arrays, symbols = prepare(feeds, self.inputs, self.manifest.symbols)
        results = [_empty(info, symbols) for info in self.outputs]
        with self._lock:
            if self._native is None:
                raise InputError("This program was closed.", "Load it again.")
            self._native.run(arrays, results)
        if output_names is None:
            return results
        return [results[names.index(name)] for name in output_names]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the artifact to `path`; `tilewright.load` reads it, in this or another process."""
        self._artifact.copy_to(path)

    def close(self) -> None:
        """Frees what the program holds; it cannot run any more. Doing so twice is no error."""
        with self._lock:
            native, self._native = self._native, None
            if native is not None:
                native.close()
                self._artifact.close()

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Executable {self.manifest.model!r} for {self.target}>"


def load(path: str | os.PathLike[str], *, threads: int | None = None, registry: Registry | None = None) -> Executable:
    """The program in an artifact.

    Loading an artifact runs native code that is in it: load only files that you trust.

    Args:
        path: a file that `Executable.save` or `tilewright compile -o` wrote.
        threads: worker threads of `run`; default `TILEWRIGHT_NUM_THREADS`, or the processors of this process.
        registry: where the backend's loader is looked up; by default among the installed plugins.

    Raises:
        ArtifactError: the file is no sound artifact.
        InputError: the plugin that can load it is missing, or this machine cannot run it.
    """
    return load_artifact(Artifact(path), threads=threads, registry=registry)


def load_artifact(artifact: Artifact, *, threads: int | None = None, registry: Registry | None = None) -> Executable:
    """The program in an artifact that is open; it belongs to the result from now on. See `load`."""
    try:
        manifest = artifact.manifest
        plugins = Registry() if registry is None else registry
        plugins.load([manifest.provider])
        backend = plugins.get(Backend, manifest.backend)
        provider = plugins.provider(backend).name
        if provider != manifest.provider:
            raise ArtifactError(
                f"Artifact {artifact.path} needs the backend {manifest.backend!r} of plugin {manifest.provider!r}, and "
                f"the one that is there is of plugin {provider!r}.",
                "Install the plugin, or compile the model again.",
            )
        native = _native(artifact, plugins.code(backend, backend.loader), thread_count(threads))
    except BaseException:
        artifact.close()
        raise
    return Executable(artifact, native)


def _native(artifact: Artifact, loader: Loader, threads: int) -> NativeProgram:
    """The loaded program, which takes and gives what the manifest says.

    Raises:
        ArtifactError: library, weights and manifest do not belong together.
    """
    manifest = artifact.manifest
    weights = artifact.weights()
    try:
        with artifact.library() as library:
            native = loader(library, weights, manifest.data, target=manifest.target, threads=threads)
        sizes = [[info.largest(manifest.symbols) for info in infos] for infos in (manifest.inputs, manifest.outputs)]
        if sizes != [list(native.input_bytes), list(native.output_bytes)]:
            native.close()
            raise DamagedError("its inputs or outputs are not those of its library")
    except DamagedError as error:
        raise damaged(artifact.path, error.message) from error
    return native


def _empty(info: TensorInfo, symbols: Mapping[str, int]) -> Array:
    """An uninitialised array for an output, its first byte on a 64-byte boundary."""
    dtype = dtypes.to_numpy(info.dtype)
    shape = [extent if isinstance(extent, int) else symbols[extent] for extent in info.shape]
    size = math.prod(shape) * dtype.itemsize
    try:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise InputError(f"There is no memory for output {info.name!r}, which takes {size} bytes.") from error
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(shape)
