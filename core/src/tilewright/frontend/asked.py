"""Which shapes a compilation is asked for: inputs and dimensions by name, one or several of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from operator import index

import onnx

from tilewright.errors import InputError, did_you_mean
from tilewright.frontend.shapes import Shape
from tilewright.frontend.symbols import asked_range

Asked = Mapping[str, Shape | Sequence[Sequence[int]]]
"""What `shapes=` of `tilewright.compile` takes: by an input's name its shape or a list of shapes, by a dimension's name
its size, a list of sizes (each may be a list of one number), or a range of sizes for one program."""

MOST_VARIANTS = 64
"""Native programs that one artifact may have."""


def combinations(inputs: Sequence[onnx.ValueInfoProto], asked: Asked) -> tuple[dict[str, Shape], ...]:
    """Every combination of what is asked for: in each, one shape by input and one size by dimension.

    Raises:
        InputError: a name is none of an input or a dimension, or could be either; what is given for it is no shape or
            size; there are too many combinations.
    """
    check_names(inputs, asked)
    choices = {name: tuple(dict.fromkeys(_choices(name, given, inputs))) for name, given in asked.items()}
    count = math.prod(len(found) for found in choices.values())
    if count > MOST_VARIANTS:
        counts = " × ".join(f"{len(found)} of {name!r}" for name, found in choices.items() if len(found) > 1)
        raise InputError(
            f"{count} combinations of shapes are asked for ({counts}); an artifact holds at most {MOST_VARIANTS}.",
            "Give fewer, or compile several artifacts.",
        )
    return tuple(dict(zip(choices, found, strict=True)) for found in itertools.product(*choices.values()))


def check_names(inputs: Sequence[onnx.ValueInfoProto], names: Iterable[str]) -> None:
    """Raises InputError for a name that is no input's and no dimension's, and suggests the near one."""
    known = dict.fromkeys((*(x.name for x in inputs), *_dimensions(inputs)))
    for name in names:
        if name not in known:
            raise InputError(
                f"A shape is given for {name!r}, which is no input and no named dimension of the model.",
                did_you_mean(name, known, "It has"),
            )


def dimension_names(inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, tuple[str, ...]]:
    """What the model calls the dimensions of each input; empty where one has no name."""
    return {x.name: tuple(dim.dim_param for dim in x.type.tensor_type.shape.dim) for x in inputs}


def _dimensions(inputs: Sequence[onnx.ValueInfoProto]) -> list[str]:
    return [name for names in dimension_names(inputs).values() for name in names if name]


def _choices(name: str, given: Shape | Sequence[Sequence[int]], inputs: Sequence[onnx.ValueInfoProto]) -> list[Shape]:
    """The shapes of an input, the sizes of a dimension, or the one range that it keeps."""
    kept = asked_range(name, given, inputs)
    if kept is not None:
        return [kept]
    number = not isinstance(given, Sequence)
    rows = _rows(name, given)
    nested = not number and len(rows) > 0 and isinstance(given[0], Sequence)  # type: ignore[index]
    info = next((x for x in inputs if x.name == name), None)
    dimension = name in _dimensions(inputs)
    if dimension and info is not None and not number:
        kind = info.type.tensor_type
        if nested and any(len(row) != 1 for row in rows):
            dimension = False
        elif not nested or not kind.HasField("shape") or len(kind.shape.dim) == 1:
            raise InputError(
                f"{name!r} is an input and a dimension of the model, and {given!r} may be meant for either.",
                "Give the shapes of all inputs that have the dimension, or in Python a number for the dimension.",
            )
    if dimension:
        if not rows or any(len(row) != 1 or row[0] < 0 for row in rows):
            raise InputError(
                f"{name!r} is a dimension of the model and needs a size or several, not {given!r}.",
                f"For example: --shape {name}=4.",
            )
        return [row[0] for row in rows]
    if number:
        raise InputError(f"Input {name!r} needs a shape, not the number {given}.", f"Give a tuple, such as ({given},).")
    return list(rows) if nested else [tuple(row[0] for row in rows)]


def _rows(name: str, given: Shape | Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Each item of what is given for a name as a tuple."""
    wrong = InputError(f"What is given for {name!r} is no shape and no size: {given!r}.", "Give whole numbers.")
    items = given if isinstance(given, Sequence) else [given]
    if len({isinstance(x, Sequence) for x in items}) > 1:
        raise wrong
    try:
        return [tuple(map(index, x)) if isinstance(x, Sequence) else (index(x),) for x in items]
    except TypeError:
        raise wrong from None
