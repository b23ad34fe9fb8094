"""`tilewright.compile`: from a model to an `Executable`, through the cache."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tilewright.artifact import Artifact, Manifest, TensorInfo, write_artifact
from tilewright.cache import Cache, cache_key
from tilewright.compiler import Plan, build_program, device_of, load_module, plan_module
from tilewright.config import ConfigSource, load_config
from tilewright.config.binding import Settings, bind
from tilewright.ir.expr import Const, Var
from tilewright.ir.keys import identity
from tilewright.ir.module import Module
from tilewright.ir.ops import Value
from tilewright.plugins.identity import code_identity, distribution_version
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend
from tilewright.runtime.executable import Executable, load_artifact
from tilewright.runtime.native import Array, BuildOutput
from tilewright.runtime.threads import thread_count

if TYPE_CHECKING:
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto


def compile(
    model: Model,
    target: str | None = None,
    config: ConfigSource = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, Array] | None = None,
    threads: int | None = None,
    cache: bool = True,
    strict: bool = False,
) -> Executable:
    """Compiles an ONNX model, or takes the program from the cache.

    Args:
        model: a path, the bytes of a model, or a `ModelProto`.
        target: such as `cpu` or `cuda:h200`; replaces the target of `config`.
        config: a path to a TOML file, a mapping of the same form, or a `Config`.
        shapes: the shapes of inputs whose declared shapes have symbolic dimensions.
        bind: inputs that are fixed to the given arrays. The program does not take them. Needed for inputs that decide
            shapes, such as the sizes of a Resize or the trips of a loop that collects rows.
        threads: worker threads of `Executable.run`.
        cache: whether to use the cache.
        strict: whether a broken plugin ends the compilation.

    Raises:
        InputError: the model, the configuration or an argument cannot be used as it is; says what to do.
    """
    workers = thread_count(threads)
    settings = settings_for(target, config, strict=strict)
    artifact, seconds = compile_artifact(model, settings, shapes=shapes, bind=bind, cache=cache)
    program = load_artifact(artifact, threads=workers, registry=settings.registry)
    program.compile_seconds = seconds
    return program


def compile_artifact(
    model: Model,
    settings: Settings,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, Array] | None = None,
    cache: bool = True,
) -> tuple[Artifact, float | None]:
    """Compiles a model without loading the program, so for a device that this machine may not have.

    Returns:
        The open artifact, and the seconds that its compilation took, or None if it comes from the cache.

    Raises:
        InputError: as for `compile`.
    """
    start = time.perf_counter()
    name = _name(model)
    module = load_module(os.fspath(model) if isinstance(model, os.PathLike) else model, settings, shapes, bind=bind)
    seconds: float | None = None

    def build(path: Path) -> None:
        nonlocal seconds
        build_artifact(module, name, settings, path)
        seconds = time.perf_counter() - start

    if cache:
        artifact = Cache().fetch(compilation_key(module, name, settings), build, _opened)
    else:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            path = Path(folder, "program.tw")
            build(path)
            artifact = Artifact(path)  # it stays open, so the folder may go
    return artifact, seconds


def _opened(path: Path) -> Artifact:
    artifact = Artifact(path)
    try:
        artifact.verify()
    except BaseException:
        artifact.close()
        raise
    return artifact


def settings_for(target: str | None, config: ConfigSource, *, strict: bool = False) -> Settings:
    """The configuration with every name looked up among the installed plugins."""
    found = load_config(config, target=target)
    return bind(found, Registry(strict=strict, disabled=found.plugins.disabled))


def build_artifact(module: Module, name: str, settings: Settings, path: Path) -> Manifest:
    """Compiles a legalised module, called `name`, and writes the artifact to `path`; no cache."""
    plan = plan_module(module, settings)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as workdir:
        output = build_program(plan.program, settings, Path(workdir))
        return write_artifact(
            path,
            _manifest(name, plan, output, settings),
            output.library,
            output.weights,
            decisions=[plain(attrs.asdict(decision)) for decision in plan.decisions],
        )


def compilation_key(module: Module, name: str, settings: Settings) -> str:
    """The cache's key of a compilation: IR, what the configuration chooses, device, and the versions of the plugins
    that it uses, of compiler and toolchain.
    """
    registry = settings.registry
    backend = registry.get(Backend, settings.target.backend)
    return cache_key(
        {
            "ir": identity(module),
            "names": [name, module.input_names, module.output_names],
            "target": str(settings.target),
            "options": plain(settings.config.options),
            "passes": plain(attrs.asdict(settings.config.passes)),
            "verify": settings.config.verify.level,
            "slots": {slot: record.name for slot, record in settings.slots.items()},
            "device": plain(attrs.asdict(device_of(settings))),
            "code": code_identity(settings.plugins()),
            "toolchain": plain(registry.code(backend, backend.versions)()),
        }
    )


def _manifest(name: str, plan: Plan, output: BuildOutput, settings: Settings) -> Manifest:
    program = plan.program
    registry = settings.registry
    provider = registry.provider(registry.get(Backend, settings.target.backend))
    return Manifest(
        tilewright=distribution_version("tilewright-core"),
        model=name,
        target=str(settings.target),
        provider=provider.name,
        inputs=_tensors(program.input_names, program.inputs),
        outputs=_tensors(program.output_names, program.outputs),
        symbols={symbol.name: symbol.upper for symbol in program.symbols},
        requires=output.requires,
        slots={slot: record.name for slot, record in settings.slots.items()},
        versions={
            **{info.distribution: distribution_version(info.distribution) for info in settings.plugins()},
            **output.versions,
        },
        kernels=len(program.kernels),
        data=output.data,
    )


def _name(model: Model) -> str:
    """What to call a model: its file's name without the suffix, or its graph's name."""
    if isinstance(model, bytes):
        return "model"
    if isinstance(model, str | os.PathLike):
        return Path(model).stem
    return model.graph.name


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
