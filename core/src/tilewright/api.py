"""`tilewright.compile`: from a model to an `Executable`, through the cache."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tilewright.artifact import Artifact
from tilewright.assemble import build_artifact, build_specialised, plain
from tilewright.cache import Cache, cache_key
from tilewright.compiler import device_of, load_module
from tilewright.config import ConfigSource, load_config
from tilewright.config.binding import Settings, bind
from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.asked import Asked, combinations, dimension_names
from tilewright.frontend.source import read
from tilewright.frontend.text import given_module, is_text
from tilewright.ir.keys import identity
from tilewright.ir.module import Module
from tilewright.partitioned import Partitioned, build_parts, partitioned, report
from tilewright.plugins.identity import code_identity
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend
from tilewright.runtime.executable import Executable, load_artifact
from tilewright.runtime.native import Array
from tilewright.runtime.specialise import Jit, as_jit

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto | Module


def compile(
    model: Model,
    target: str | None = None,
    config: ConfigSource = None,
    *,
    shapes: Asked | None = None,
    bind: Mapping[str, Array] | None = None,
    jit: Jit | bool = True,
    fallback: str | None = None,
    threads: int | None = None,
    cache: bool = True,
    strict: bool = False,
) -> Executable:
    """Compiles an ONNX model, or a module of the tile IR, or takes the program from the cache.

    Args:
        model: a path, the bytes of a model, or a `ModelProto`; a `Module` (`tilewright.builder` makes some), or the
            path of a module's text, which ends in `.tile`.
        target: such as `cpu` or `cuda:h200`; replaces the target of `config`.
        config: a path to a TOML file, a mapping of the same form, or a `Config`.
        shapes: for what the model leaves open, by an input's name its shape, by a dimension's name its size:
            `{"batch": 4, "x": (1, 3, 224, 224)}`. A list of sizes or of shapes makes a program for each (for each
            combination, if there are several lists); they share the weights, and `run` takes the one that fits.
        bind: inputs that are fixed to the given arrays. The program does not take them.
        jit: whether a model in which values of inputs decide shapes, such as the sizes of a Resize or the trips of a
            loop that collects rows, becomes a program that `run` compiles for the values that it meets. Otherwise such
            inputs have to be bound. A `tilewright.Jit` says how many programs are kept.
        fallback: what becomes of nodes that cannot be compiled: `error`, or `reference`, which lets ONNX's reference
            evaluator run them, slowly; each is reported. Replaces the fallback of `config`.
        threads: worker threads of `Executable.run`, for which a program for a CPU is planned; default
            `TILEWRIGHT_NUM_THREADS`, or the processors of this process.
        cache: whether to use the cache, now and when `run` compiles.
        strict: whether a broken plugin ends the compilation.

    Raises:
        InputError: the model, the configuration or an argument cannot be used as it is; says what to do.
    """
    settings = settings_for(target, config, fallback, strict=strict, threads=threads)
    how = as_jit(jit, cache=cache)
    artifact, seconds = compile_artifact(model, settings, shapes=shapes, bind=bind, jit=how.allowed, cache=cache)
    program = load_artifact(artifact, threads=settings.threads, registry=settings.registry, jit=how)
    program.compile_seconds = seconds
    return program


def compile_artifact(
    model: Model,
    settings: Settings,
    *,
    shapes: Asked | None = None,
    bind: Mapping[str, Array] | None = None,
    jit: bool = True,
    cache: bool = True,
) -> tuple[Artifact, float | None]:
    """Compiles a model without loading the program, so for a device that this machine may not have.

    Returns:
        The open artifact, and the seconds that its compilation took, or None if it comes from the cache.

    Raises:
        InputError: as for `compile`.
    """
    start = time.perf_counter()
    settings = attrs.evolve(settings, keep_trials=cache)
    name = _name(model)
    if isinstance(model, Module) or is_text(model):
        module = load_module(given_module(model, shapes or {}, bind or {}), settings)
        return compile_modules([module], name, settings, cache=cache, start=start)
    source = read(os.fspath(model) if isinstance(model, os.PathLike) else model)
    wanted = combinations(source.inputs, shapes or {})
    try:
        modules = [load_module(source, settings, one, bind=bind) for one in wanted]
    except UnsupportedError as error:
        made = partitioned(source, settings, wanted[0], bind or {}, error, jit=jit)
        if made is not None:
            report(made.fallen)
        if made is not None and len(wanted) == 1:
            return compile_parts(made, name, settings, cache=cache, start=start)
        if made is not None:
            _refuse_several(made, len(wanted), error, jit=jit)
        elif not jit:
            raise
        _log.info("The program will be specialised when it runs: %s", error.message)
        fixed = attrs.evolve(source, weights={**source.weights, **(bind or {})})
        nodes = () if made is None else made.fallen
        artifact = _made(partial(build_specialised, fixed, wanted, name, settings, nodes=nodes))
        return artifact, time.perf_counter() - start
    return compile_modules(modules, name, settings, dimension_names(source.inputs), cache=cache, start=start)


def _refuse_several(made: Partitioned, count: int, error: UnsupportedError, *, jit: bool) -> None:
    """Raises for what keeps a model that is cut into parts from being specialised for several sets of shapes."""
    if not jit or not all(x.is_plain for x in (*made.inputs, *made.outputs)):
        raise InputError(
            f"{count} sets of shapes are asked for, and the model has to be cut into parts: {error.message}",
            "Compile an artifact for each set of shapes.",
        ) from error


def compile_modules(
    modules: Sequence[Module],
    name: str,
    settings: Settings,
    dimensions: Mapping[str, Sequence[str]] | None = None,
    *,
    cache: bool = True,
    start: float | None = None,
) -> tuple[Artifact, float | None]:
    """Compiles the variants of a model, called `name`, or takes their artifact from the cache.

    Args:
        modules: legalised.
        dimensions: by the name of an input, what its dimensions are called, if anything.
        start: when the compilation began, by `time.perf_counter`; now, if left out.

    Returns:
        As for `compile_artifact`.
    """
    named = dimensions or {}
    identities = [identity(module) for module in modules]
    names = [name, named, *((m.input_names, m.output_names, dict(m.lengths)) for m in modules)]
    build = partial(build_artifact, modules, name, settings, dimensions=named)
    return _fetched(build, compilation_key(identities, names, settings) if cache else None, start)


def compile_parts(
    made: Partitioned, name: str, settings: Settings, *, cache: bool = True, start: float | None = None
) -> tuple[Artifact, float | None]:
    """Compiles the parts of a model, called `name`, or takes their artifact from the cache. As `compile_modules`."""
    build = partial(build_parts, made, name, settings)
    names = [name, *made.names, settings.config.fallback]  # a part that is specialised later keeps to the fallback
    return _fetched(build, compilation_key(made.identity(), names, settings) if cache else None, start)


def _fetched(
    build: Callable[[Path], object], key: str | None, start: float | None
) -> tuple[Artifact, float | None]:
    """The artifact of a key in the cache, or that `build` writes to a path; None as key: no cache."""
    begin = time.perf_counter() if start is None else start
    seconds: float | None = None

    def timed(path: Path) -> None:
        nonlocal seconds
        build(path)
        seconds = time.perf_counter() - begin

    artifact = _made(timed) if key is None else Cache().fetch(key, timed, _opened)
    return artifact, seconds


def _made(build: Callable[[Path], object]) -> Artifact:
    """The artifact that `build` writes to the path it is given; it stays open, so that the file may go."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, "program.tw")
        build(path)
        return Artifact(path)


def _opened(path: Path) -> Artifact:
    artifact = Artifact(path)
    try:
        artifact.verify()
    except BaseException:
        artifact.close()
        raise
    return artifact


def settings_for(
    target: str | None,
    config: ConfigSource,
    fallback: str | None = None,
    *,
    strict: bool = False,
    threads: int | None = None,
) -> Settings:
    """The configuration with every name looked up among the installed plugins. Arguments as for `compile`."""
    found = load_config(config, target=target, fallback=fallback)
    return bind(found, Registry(strict=strict, disabled=found.plugins.disabled), threads)


def compilation_key(identities: Sequence[str], names: Sequence[object], settings: Settings) -> str:
    """The cache's key of a compilation: what is compiled, what the configuration chooses, device, and the versions of
    the plugins that it uses, of compiler and toolchain.

    Args:
        identities: of the IR of each native program, or of a model.
        names: all names that the artifact holds.
    """
    registry = settings.registry
    backend = registry.get(Backend, settings.target.backend)
    return cache_key(
        {
            "ir": list(identities),
            "names": plain(names),
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


def _name(model: Model) -> str:
    """What to call a model: its file's name without the suffix, or the name of its graph or entry."""
    if isinstance(model, Module):
        return model.entry
    if isinstance(model, bytes):
        return "model"
    if isinstance(model, str | os.PathLike):
        return Path(model).stem
    return model.graph.name
