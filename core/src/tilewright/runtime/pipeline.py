"""Running a program step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from attrs import field, frozen

from tilewright.artifact import Artifact, ArtifactError, Step, Variant, damaged
from tilewright.errors import DamagedError, InputError, InternalError
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend
from tilewright.runtime.native import Array, Loader, NativeProgram, TaskTime
from tilewright.runtime.specialise import Jit, SpecialiseStep
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
        held: what the steps need; closed after them.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        steps: Sequence[tuple[Step, StepRunner]],
        held: Artifact | None = None,
    ) -> None:
        self._held = held
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

    def measure(self, given: Sequence[Any], rounds: int) -> list[float]:
        """Seconds of each of `rounds` runs after a first: of one native step without transfers, else by the clock."""
        match self._steps:
            case ((step, NativeStep() as runner),):
                values = dict(zip(self._inputs, given, strict=True))
                return runner.measure([values[name] for name in step.inputs], rounds)
        self.run(given)
        seconds: list[float] = []
        for _ in range(rounds):
            start = time.perf_counter()
            self.run(given)
            seconds.append(time.perf_counter() - start)
        return seconds

    def timeline(self) -> dict[str, list[TaskTime]]:
        """What the units of traced launches ran in the last run, by launch."""
        found: dict[str, list[TaskTime]] = {}
        for _, runner in self._steps:
            found |= runner.timeline() if isinstance(runner, NativeStep) else {}
        return found

    def close(self) -> None:
        """Frees what the steps hold."""
        for _, runner in self._steps:
            runner.close()
        if self._held is not None:
            self._held.close()


@frozen
class Environment:
    """What all pipelines of one program have in common, those of programs that it is specialised to included.

    Args:
        registry: where the backend's loader is looked up.
        threads: worker threads.
        weights: weights in use by their digests: programs that have equal ones share one array.
    """

    registry: Registry
    threads: int
    jit: Jit
    stats: Stats
    weights: WeakValueDictionary[str, Array] = field(factory=WeakValueDictionary)


def open_pipeline(artifact: Artifact, environment: Environment) -> Pipeline:
    """The pipeline of an artifact, which belongs to it from now on and is closed with it, or if it cannot be made.

    Raises:
        ArtifactError: the artifact is damaged.
        InputError: the plugin that can load its programs is missing, this machine cannot run them, or it would have to
            compile what is forbidden.
    """
    steps: list[tuple[Step, StepRunner]] = []
    try:
        start = _starter(artifact, environment)
        for step in artifact.manifest.pipeline:
            steps.append((step, start(step)))
    except BaseException:
        for _, runner in steps:
            runner.close()
        artifact.close()
        raise
    inputs, outputs = ([x.name for x in infos] for infos in (artifact.manifest.inputs, artifact.manifest.outputs))
    return Pipeline(inputs, outputs, steps, artifact)


def _starter(artifact: Artifact, environment: Environment) -> Callable[[Step], StepRunner]:
    """Makes what runs a step of the artifact."""
    manifest, registry = artifact.manifest, environment.registry
    jit, stats = environment.jit, environment.stats
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
    mapped = artifact.weights()

    def shared(name: str, array: Array) -> Array:
        digest = manifest.digests.get(name)
        return array if digest is None else environment.weights.setdefault(digest, array)

    def load(variant: Variant) -> NativeProgram:
        wanted = set(variant.weights.values())
        pool = {name: shared(name, array) for name, array in mapped.items() if name in wanted}
        return _native(artifact, variant, pool, loader, environment.threads)

    def inner(made: Artifact) -> Pipeline:
        return open_pipeline(made, environment)

    def start(step: Step) -> StepRunner:
        match step.kind:
            case "native":
                return NativeStep(step, load, stats)
            case "specialise" if jit.allowed:
                return SpecialiseStep(step, artifact, registry, environment.threads, jit, stats, inner)
            case "specialise":
                raise InputError(
                    f"{artifact.path} holds a model that is compiled when it runs, which --no-jit (jit=False) forbids.",
                    "Compile the model with --no-jit: that says which inputs to fix with --bind.",
                )
            case "reference":
                # Only here, for it imports onnx.
                from tilewright.runtime.reference import open_reference

                return open_reference(step, artifact, stats)
        raise InternalError(f"a step of kind {step.kind}")

    return start


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
