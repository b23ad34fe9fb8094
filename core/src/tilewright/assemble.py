"""From legalised modules, or a model that has to wait, to the artifact that holds them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from tilewright.artifact import Fallen, Manifest, Model, Step, TensorInfo, Variant, write_artifact
from tilewright.artifact.extents import written
from tilewright.artifact.manifest import DECISIONS, LIBRARY, MODEL, StoredWeight, numbered
from tilewright.artifact.pool import Pool
from tilewright.compiler import Plan, build_program, device_of, plan_module
from tilewright.config.binding import Settings
from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.asked import dimension_names
from tilewright.frontend.shapes import Shape, bind_inputs
from tilewright.frontend.source import Source, stored
from tilewright.frontend.tensors import dtype_of
from tilewright.ir import dtypes
from tilewright.ir.lengths import delivered_names
from tilewright.ir.module import Constant, Module
from tilewright.ir.ops import Value
from tilewright.plugins.identity import distribution_version
from tilewright.plugins.records import Backend
from tilewright.runtime.native import Array, Weight


def build_artifact(
    modules: Sequence[Module],
    name: str,
    settings: Settings,
    path: Path,
    dimensions: Mapping[str, Sequence[str]] | None = None,
) -> Manifest:
    """Compiles the variants of a model, called `name`, and writes the artifact to `path`; no cache.

    Args:
        modules: legalised; they differ in their shapes only.
        dimensions: by the name of an input, what its dimensions are called, if anything.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-") as workdir:
        parts = Parts(settings, Path(workdir))
        step = parts.native(modules)
        names: dict[tuple[int | str, ...], str] = {}
        inputs = merged([variant.inputs for variant in step.variants], dimensions or {}, names)
        outputs = merged([variant.delivered for variant in step.variants], {}, names)
        return parts.write(path, name, inputs, outputs, (step,))


def build_planned(plan: Plan, name: str, settings: Settings, path: Path) -> Manifest:
    """Builds one program that is planned already, called `name`, and writes the artifact to `path`."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as workdir:
        parts = Parts(settings, Path(workdir))
        variant = parts.built(plan)
        names = tuple(x.name for x in variant.inputs), tuple(x.name for x in variant.delivered)
        step = Step("native", *names, (variant,))
        return parts.write(path, name, variant.inputs, variant.delivered, (step,))


def build_specialised(
    source: Source,
    shapes: Sequence[Mapping[str, Shape]],
    name: str,
    settings: Settings,
    path: Path,
    nodes: tuple[Fallen, ...] = (),
) -> Manifest:
    """Writes an artifact that holds the model itself, called `name`, to be compiled when it runs.

    Args:
        shapes: what the model leaves open, one or several sets.
        nodes: those that ONNX's reference evaluator will run.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-") as workdir:
        parts = Parts(settings, Path(workdir))
        alternatives = tuple(declared_inputs(source, given) for given in shapes)
        step = parts.model(source, alternatives, nodes)
        inputs = merged(alternatives, dimension_names(source.inputs))
        return parts.write(path, name, inputs, declared_outputs(source, inputs), (step,))


class Parts:
    """What goes into an artifact: built programs, their weights in one pool, and what they need.

    Args:
        workdir: where libraries lie until the artifact is written.
    """

    def __init__(self, settings: Settings, workdir: Path) -> None:
        self.pool = Pool()
        self._settings = settings
        self._workdir = workdir
        self._libraries: dict[str, Path] = {}
        self._models: dict[str, bytes] = {}
        self._decisions: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._requires: dict[str, None] = {}
        self._versions: dict[str, str] = {}

    def native(self, modules: Sequence[Module]) -> Step:
        """A step of one or several programs, which differ in their shapes only."""
        variants = tuple(self.built(plan_module(module, self._settings)) for module in modules)
        outputs = delivered_names(modules[0].output_names, modules[0].lengths)
        return Step("native", modules[0].input_names, outputs, variants)

    def built(self, plan: Plan) -> Variant:
        """Builds what is planned, as one more program."""
        number = len(self._libraries)
        program = plan.program
        folder = self._workdir / str(number)
        folder.mkdir()
        output = build_program(program, self._settings, folder)
        variant = Variant(
            library=numbered(LIBRARY, number),
            decisions=numbered(DECISIONS, number),
            inputs=_tensors(program.input_names, program.inputs),
            outputs=_tensors(program.output_names, program.outputs),
            symbols={symbol.name: (symbol.lower, symbol.upper) for symbol in program.symbols},
            weights=self.pool.add(output.weights),
            kernels=len(program.kernels),
            lengths=dict(program.lengths),
            data=output.data,
        )
        self._libraries[variant.library] = output.library
        self._decisions[variant.decisions] = [plain(attrs.asdict(decision)) for decision in plan.decisions]
        self._requires |= dict.fromkeys(output.requires)
        self._versions |= output.versions
        return variant

    def model(
        self, source: Source, shapes: tuple[tuple[TensorInfo, ...], ...], nodes: tuple[Fallen, ...] = ()
    ) -> Step:
        """A step that is specialised when it runs, of a model or of a part of one.

        Args:
            shapes: what its inputs may be.
            nodes: those that ONNX's reference evaluator will run.
        """
        config = attrs.evolve(self._settings.config, target=str(self._settings.target), study=None)
        model = self._model(source, shapes, plain(attrs.asdict(config)))
        self._requires |= dict.fromkeys(("runtime", *(["reference"] if nodes else []), "compiler"))
        return Step("specialise", *_names(source), model=model, nodes=nodes)

    def reference(self, source: Source, inputs: tuple[TensorInfo, ...], nodes: tuple[Fallen, ...]) -> Step:
        """A step that ONNX's reference evaluator runs.

        Args:
            nodes: what the model is made of.
        """
        model = self._model(source, (inputs,), {})
        self._requires |= {"reference": None}
        return Step("reference", *_names(source), model=model, nodes=nodes)

    def _model(
        self, source: Source, shapes: tuple[tuple[TensorInfo, ...], ...], config: Mapping[str, Any]
    ) -> Model:
        """Takes in a model and its weights."""
        section = numbered(MODEL, len(self._models))
        self._models[section] = stored(source)
        names = self.pool.add([_model_weight(name, array) for name, array in source.weights.items()])
        weights = {
            name: StoredWeight(names[name], dtypes.from_numpy(array.dtype)) for name, array in source.weights.items()
        }
        return Model(section, shapes, weights, config)

    def write(
        self,
        path: Path,
        name: str,
        inputs: tuple[TensorInfo, ...],
        outputs: tuple[TensorInfo, ...],
        steps: tuple[Step, ...],
    ) -> Manifest:
        """Writes the artifact of a model, called `name`; its manifest."""
        settings = self._settings
        registry = settings.registry
        plugins = {info.distribution: distribution_version(info.distribution) for info in settings.plugins()}
        planned = any(step.variants for step in steps)
        manifest = Manifest(
            tilewright=distribution_version("tilewright-core"),
            model=name,
            target=str(settings.target),
            provider=registry.provider(registry.get(Backend, settings.target.backend)).name,
            inputs=inputs,
            outputs=outputs,
            pipeline=steps,
            threads=settings.threads if planned and device_of(settings).kind == "cpu" else 0,
            requires=tuple(self._requires),
            slots={slot: record.name for slot, record in settings.slots.items()},
            versions=plugins | self._versions,
            digests=self.pool.digests,
        )
        return write_artifact(
            path, manifest, self._libraries, self.pool.weights, decisions=self._decisions, extra=self._models
        )


def _names(source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(x.name for x in source.inputs), tuple(x.name for x in source.proto.graph.output)


def _model_weight(name: str, array: Array) -> Weight:
    constant = Constant(array)
    return Weight(name, constant.dtype, array.shape, lambda: np.ascontiguousarray(array), constant.digest)


def declared_inputs(source: Source, shapes: Mapping[str, Shape]) -> tuple[TensorInfo, ...]:
    """The inputs of a model that is specialised when it runs, what it leaves open as given.

    Raises:
        InputError: a dimension is given a range.
    """
    for name in (x for x, shape in shapes.items() if isinstance(shape, range)):
        raise InputError(
            f"The dimension {name!r} is given a range, but values of inputs decide shapes of the model.",
            "Bind those inputs (--bind NAME=FILE), or give the dimension one size or several.",
        )
    typed = bind_inputs(source.inputs, shapes)
    return tuple(TensorInfo(name, dtype, tuple(map(written, shape))) for name, (dtype, shape) in typed.items())


def declared_outputs(source: Source, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The outputs as the model declares them. An extent that it does not know has a name.

    Args:
        inputs: whose extents the dimensions of the model have.
    """
    names = dimension_names(source.inputs)
    sizes = {
        name: extent
        for info in inputs
        for name, extent in zip(names[info.name], info.shape, strict=False)
        if name and isinstance(extent, int)
    }
    found: list[TensorInfo] = []
    for info in source.proto.graph.output:
        if not info.type.HasField("tensor_type"):
            raise UnsupportedError(f"Output {info.name!r} is no tensor.", "Only tensors can be outputs of a program.")
        kind = info.type.tensor_type
        names_of = [dim.dim_param or f"{info.name}.{axis}" for axis, dim in enumerate(kind.shape.dim)]
        shape = [
            dim.dim_value if dim.HasField("dim_value") else sizes.get(name, name)
            for name, dim in zip(names_of, kind.shape.dim, strict=True)
        ]
        found.append(TensorInfo(info.name, dtype_of(kind.elem_type, f"Output {info.name!r}"), tuple(shape)))
    return tuple(found)


def merged(
    alternatives: Sequence[tuple[TensorInfo, ...]],
    dimensions: Mapping[str, Sequence[str]],
    names: dict[tuple[int | str, ...], str] | None = None,
) -> tuple[TensorInfo, ...]:
    """Inputs or outputs for all of several sets of shapes.

    An extent that differs between them gets a name, the model's where it has one. Extents that are equal in every set
    get one name.

    Args:
        dimensions: by the name of an input, what its dimensions are called, if anything.
        names: the names given so far, by the extents; added to.
    """
    given = {} if names is None else names
    found: list[TensorInfo] = []
    for infos in zip(*alternatives, strict=True):
        first = infos[0]
        known = dimensions.get(first.name, ())
        shape: list[int | str] = []
        for axis, extents in enumerate(zip(*(info.shape for info in infos), strict=True)):
            if len(set(extents)) == 1:
                shape.append(extents[0])
            else:
                called = known[axis] if axis < len(known) else ""
                shape.append(given.setdefault(extents, called or f"{first.name}.{axis}"))
        found.append(TensorInfo(first.name, first.dtype, tuple(shape)))
    return tuple(found)


def _tensors(names: Sequence[str], values: Sequence[Value]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, value.dtype, tuple(map(written, value.extents)))
        for name, value in zip(names, values, strict=True)
    )


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy numbers become Python's, numbers that are not finite become None."""
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bool() | str() | None | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case _ if hasattr(value, "item"):
            return plain(value.item())
    return str(value)
