"""From legalised modules to the artifact that holds their programs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tilewright.artifact import Manifest, Step, TensorInfo, Variant, write_artifact
from tilewright.artifact.manifest import DECISIONS, LIBRARY, numbered
from tilewright.artifact.pool import Pool
from tilewright.compiler import build_program, plan_module
from tilewright.config.binding import Settings
from tilewright.ir.expr import Const, Var
from tilewright.ir.module import Module
from tilewright.ir.ops import Value
from tilewright.plugins.identity import distribution_version
from tilewright.plugins.records import Backend


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
        variants = tuple(map(parts.variant, modules))
        inputs, outputs = public(variants, dimensions or {})
        step = Step("native", tuple(x.name for x in inputs), tuple(x.name for x in outputs), variants)
        return parts.write(path, name, inputs, outputs, (step,))


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
        self._decisions: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._requires: dict[str, None] = {}
        self._versions: dict[str, str] = {}

    def variant(self, module: Module) -> Variant:
        """Plans and builds a legalised module, as one more program."""
        number = len(self._libraries)
        plan = plan_module(module, self._settings)
        program = plan.program
        folder = self._workdir / str(number)
        folder.mkdir()
        output = build_program(program, self._settings, folder)
        variant = Variant(
            library=numbered(LIBRARY, number),
            decisions=numbered(DECISIONS, number),
            inputs=_tensors(program.input_names, program.inputs),
            outputs=_tensors(program.output_names, program.outputs),
            symbols={symbol.name: symbol.upper for symbol in program.symbols},
            weights=self.pool.add(output.weights),
            kernels=len(program.kernels),
            data=output.data,
        )
        self._libraries[variant.library] = output.library
        self._decisions[variant.decisions] = [plain(attrs.asdict(decision)) for decision in plan.decisions]
        self._requires |= dict.fromkeys(output.requires)
        self._versions |= output.versions
        return variant

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
        manifest = Manifest(
            tilewright=distribution_version("tilewright-core"),
            model=name,
            target=str(settings.target),
            provider=registry.provider(registry.get(Backend, settings.target.backend)).name,
            inputs=inputs,
            outputs=outputs,
            pipeline=steps,
            requires=tuple(self._requires),
            slots={slot: record.name for slot, record in settings.slots.items()},
            versions=plugins | self._versions,
        )
        return write_artifact(path, manifest, self._libraries, self.pool.weights, decisions=self._decisions)


def public(
    variants: Sequence[Variant], dimensions: Mapping[str, Sequence[str]]
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The inputs and outputs of all variants together.

    An extent that differs between variants gets a name, the model's where it has one. Extents that are equal in every
    variant get one name.
    """
    names: dict[tuple[int | str, ...], str] = {}

    def merged(infos: tuple[TensorInfo, ...]) -> TensorInfo:
        first = infos[0]
        known = dimensions.get(first.name, ())
        shape: list[int | str] = []
        for axis, extents in enumerate(zip(*(info.shape for info in infos), strict=True)):
            if len(set(extents)) == 1:
                shape.append(extents[0])
            else:
                called = known[axis] if axis < len(known) else ""
                shape.append(names.setdefault(extents, called or f"{first.name}.{axis}"))
        return TensorInfo(first.name, first.dtype, tuple(shape))

    inputs = tuple(map(merged, zip(*(variant.inputs for variant in variants), strict=True)))
    outputs = tuple(map(merged, zip(*(variant.outputs for variant in variants), strict=True)))
    return inputs, outputs


def _tensors(names: Sequence[str], values: Sequence[Value]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, value.dtype, tuple(_extent(extent) for extent in value.shape))
        for name, value in zip(names, values, strict=True)
    )


def _extent(extent: object) -> int | str:
    match extent:
        case Const(value=value):
            return int(value)
        case Var(name=name):
            return str(name)
    raise NotImplementedError(f"an input or output with the extent {extent}")


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
