"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import click

from tilewright.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


Shapes = dict[str, list[list[int]] | range]
"""By the name of an input or a dimension, the alternatives that are asked for, or the range of sizes."""

_SHAPE = "NAME=1x3x224x224"


def shapes(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> Shapes:
    """`NAME=1x3x224x224`, `batch=1,4,16` or `seq=1..512`, several times, as a mapping to alternatives or a range."""
    found: Shapes = {}
    for text in given:
        name, separator, alternatives = text.rpartition("=")
        low, dots, high = alternatives.partition("..")
        if separator and dots and low.isdecimal() and high.isdecimal():
            found[name] = range(int(low), int(high) + 1)
            continue
        rows = [extents.split("x") if extents else [] for extents in alternatives.split(",")]
        if not separator or not all(part.isdecimal() for row in rows for part in row):
            raise InputError(
                f"--shape {text!r} is not of the form {_SHAPE}, batch=4 or seq=1..512.",
                "Give sizes joined by x; several shapes, or sizes of a dimension, are joined by commas.",
            )
        found[name] = [[int(part) for part in row] for row in rows]
    return found


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


model_argument = click.argument("model", metavar="MODEL")
"""A path, or `light:NAME`: the seeded variant of a light model that ships with onnx."""

compile_options = _together(
    click.option("--target", metavar="T", help="cpu, cpu:MCPU, cuda:h200, … [default: the configuration's]."),
    click.option("--config", metavar="FILE", type=click.Path(), help="Configuration, a TOML file."),
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar=_SHAPE,
        callback=shapes,
        help="Shape of an input, or size of a named dimension (batch=4); with commas, a program for each; "
        "seq=1..512: one program for all these sizes. May be repeated.",
    ),
    click.option("--no-cache", is_flag=True, help="Neither read nor fill the cache."),
    click.option("--strict", is_flag=True, help="A broken plugin is an error, not a warning."),
)

value_options = _together(
    click.option(
        "--bind",
        "bound",
        multiple=True,
        metavar="NAME=FILE",
        help="Fix an input to the array in a .npy, .npz or .pb file; may be repeated.",
    ),
    click.option(
        "--fallback",
        type=click.Choice(["error", "reference"]),
        help="What becomes of nodes that cannot be compiled; reference: ONNX's evaluator runs them, slowly "
        "[default: the configuration's].",
    ),
    click.option("--no-jit", is_flag=True, help="Refuse models that have to be compiled when they run."),
)


def refuse_for_artifact(file: object, **options: Any) -> None:
    """Refuses options of a compilation that were given for a program that is compiled already.

    Args:
        options: what the command got; those that are None, False or empty were not given.

    Raises:
        InputError: an option was given.
    """
    given = [_FLAGS.get(name, f"--{name.replace('_', '-')}") for name, value in options.items() if value]
    if given:
        raise InputError(
            f"{file} is compiled already, so {', '.join(given)} would change nothing.",
            f"Leave {'them' if len(given) > 1 else 'it'} out, or give the ONNX model instead.",
        )


_FLAGS = {"shapes": "--shape", "bound": "--bind"}


def opened_model(model: str) -> AbstractContextManager[Path]:
    """The path of the model that MODEL names, while the block runs."""
    from tilewright.bench.measure import model_file

    return model_file(model)
