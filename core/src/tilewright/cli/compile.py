"""`tilewright compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilewright.api import compile_artifact, settings_for
from tilewright.artifact import Artifact
from tilewright.cli.base import Command, threads_option
from tilewright.cli.options import Shapes, compile_options, model_argument, opened_model, value_options
from tilewright.cli.output import Output, lines
from tilewright.cli.tensors import read_arrays
from tilewright.runtime.executable import Executable, load_artifact
from tilewright.runtime.specialise import Jit
from tilewright.sizes import size_text
from tilewright.threads import thread_count


@click.command("compile", cls=Command)
@model_argument
@click.option("-o", "--output", "path", metavar="FILE", type=click.Path(path_type=Path), required=True)
@compile_options
@value_options
@threads_option
def command(output: Output, model: str, path: Path, **options: Any) -> None:
    """Compile the ONNX model MODEL to the artifact FILE.

    MODEL is a path, or light:NAME for a seeded variant of a light model that ships with onnx. A path that ends in
    .tile holds a module of the tile IR as text. FILE will hold native code, which loading runs.
    """
    with output.progress(f"compiling {model}"):
        artifact, seconds = compiled_artifact(model, **options)
        with artifact:
            artifact.copy_to(path)
    manifest = artifact.manifest
    data = {
        "artifact": str(path),
        "model": model,
        "target": manifest.target,
        "kernels": manifest.kernels,
        "requires": list(manifest.requires),
        "bytes": path.stat().st_size,
        "seconds": seconds,
        "cached": seconds is None,
    }
    text = lines(
        {
            "artifact": f"{path} ({size_text(path.stat().st_size)})",
            "target": manifest.target,
            "kernels": manifest.kernels,
            "needs": ", ".join(manifest.requires),
            "compile time": "taken from the cache" if seconds is None else f"{seconds:.1f} s",
        }
    )
    output.result(data, text)


def compiled_artifact(
    model: str,
    *,
    target: str | None,
    config: str | None,
    shapes: Shapes,
    no_cache: bool,
    strict: bool,
    bound: tuple[str, ...],
    fallback: str | None,
    no_jit: bool,
    threads: int | None,
) -> tuple[Artifact, float | None]:
    """The artifact for the options of the command line, and the seconds it took, None if it was in the cache."""
    with opened_model(model) as path:
        settings = settings_for(target, config, fallback, strict=strict, threads=threads)
        bind = read_arrays(bound, "--bind")
        return compile_artifact(path, settings, shapes=shapes, bind=bind, jit=not no_jit, cache=not no_cache)


def compiled(model: str, *, threads: int | None, **options: Any) -> Executable:
    """The program for the options of the command line, loaded."""
    workers = thread_count(threads)
    artifact, _ = compiled_artifact(model, threads=workers, **options)
    return load_artifact(artifact, threads=workers, jit=Jit(not options["no_jit"], cache=not options["no_cache"]))
