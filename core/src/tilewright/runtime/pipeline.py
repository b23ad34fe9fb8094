"""Running a program step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tilewright.artifact import Artifact, ArtifactError, Step, Variant, damaged
from tilewright.errors import DamagedError
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend
from tilewright.runtime.native import Array, Loader, NativeProgram
from tilewright.runtime.stats import Stats
from tilewright.runtime.variants import NativeStep


class StepRunner(Protocol):
    """What runs one step. Calls take turns."""

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """The step's outputs for its inputs, both in the step's order. Inputs are only read."""

    def close(self) -> None:
        """Frees what the step holds. Called once; no `run` follows."""


class Pipeline:
    """The steps of a program, each with what runs it.

    Args:
        inputs: names of the values that running starts with.
        outputs: names of the values that it ends with.
    """

    def __init__(
        self, inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[tuple[Step, StepRunner]]
    ) -> None:
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._steps = tuple(steps)

    def run(self, given: Sequence[Any]) -> list[Any]:
        """The values of the outputs, from those of the inputs."""
        values = dict(zip(self._inputs, given, strict=True))
        for step, runner in self._steps:
            results = runner.run([values[name] for name in step.inputs])
            values.update(zip(step.outputs, results, strict=True))
        return [values[name] for name in self._outputs]

    def close(self) -> None:
        """Frees what the steps hold."""
        for _, runner in self._steps:
            runner.close()


def open_pipeline(artifact: Artifact, registry: Registry, threads: int, stats: Stats) -> Pipeline:
    """The pipeline of an artifact, which must stay open as long as it.

    Raises:
        ArtifactError: the artifact is damaged.
        InputError: the plugin that can load its programs is missing, or this machine cannot run them.
    """
    manifest = artifact.manifest
    registry.load([manifest.provider])
    backend = registry.get(Backend, manifest.backend)
    provider = registry.provider(backend).name
    if provider != manifest.provider:
        raise ArtifactError(
            f"Artifact {artifact.path} needs the backend {manifest.backend!r} of plugin {manifest.provider!r}, and "
            f"the one that is there is of plugin {provider!r}.",
            "Install the plugin, or compile the model again.",
        )
    loader: Loader = registry.code(backend, backend.loader)
    pool = artifact.weights()

    def load(variant: Variant) -> NativeProgram:
        return _native(artifact, variant, pool, loader, threads)

    steps: list[tuple[Step, StepRunner]] = []
    try:
        for step in manifest.pipeline:
            steps.append((step, NativeStep(step, load, stats)))
    except BaseException:
        for _, runner in steps:
            runner.close()
        raise
    return Pipeline([x.name for x in manifest.inputs], [x.name for x in manifest.outputs], steps)


def _native(
    artifact: Artifact, variant: Variant, pool: Mapping[str, Array], loader: Loader, threads: int
) -> NativeProgram:
    """The loaded program, which takes and gives what the manifest says.

    Raises:
        ArtifactError: library, weights and manifest do not belong together.
    """
    try:
        if missing := [stored for stored in variant.weights.values() if stored not in pool]:
            raise DamagedError(f"it has no weight {missing[0]!r}")
        weights = {name: pool[stored] for name, stored in variant.weights.items()}
        with artifact.library(variant) as library:
            native = loader(library, weights, variant.data, target=artifact.manifest.target, threads=threads)
        sizes = [[info.largest(variant.symbols) for info in infos] for infos in (variant.inputs, variant.outputs)]
        if sizes != [list(native.input_bytes), list(native.output_bytes)]:
            native.close()
            raise DamagedError("its inputs or outputs are not those of its library")
    except DamagedError as error:
        raise damaged(artifact.path, error.message) from error
    return native
