"""Which inputs of the model decide shapes by their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy.typing as npt

from tilewright.errors import SteeredError, UnsupportedError
from tilewright.ir.ops import Loop, Op, Value, bodies

Array = npt.NDArray[Any]
T = TypeVar("T")


class NeededError(UnsupportedError):
    """A node needs values that are known only when the program runs.

    The importer and `legalize` make it a `SteeredError` where the values follow from inputs of the model.
    """

    def __init__(self, message: str, remedy: str, values: Sequence[Value]) -> None:
        super().__init__(message, remedy)
        self.values = tuple(values)


@attrs.frozen
class OpenRegion:
    """A region whose nodes are being imported.

    Args:
        outside: what was imported before it around it.
        params: its parameters.
        given: the inputs of its node.
    """

    outside: list[Op]
    params: Sequence[Value]
    given: Sequence[Value]


def specialised(
    compiled: Callable[[dict[str, Array]], T],
    feeds: Mapping[str, Array],
    start: Iterable[str] = (),
    most: int | None = None,
) -> tuple[T, dict[str, Array]]:
    """What `compiled` makes of as few bound inputs as it can, and those inputs.

    Args:
        compiled: asked with more inputs as long as it raises a `SteeredError` that names others.
        feeds: values of all inputs.
        start: inputs to bind in any case.
        most: elements up to which an input is bound.

    Raises:
        SteeredError: all that it names is bound, or is larger.
    """
    bound = {name: feeds[name] for name in start}
    while True:
        try:
            return compiled(bound), bound
        except SteeredError as error:
            more = {name: feeds[name] for name in error.inputs if name not in bound}
            if not more or (most is not None and any(x.size > most for x in more.values())):
                raise
            bound |= more


def deciding(candidates: Sequence[Value], decided: Callable[[Sequence[Value]], bool]) -> list[Value]:
    """The fewest of the candidates, taken away one by one, that still decide; none if all together do not.

    Args:
        decided: whether shapes are known when the given values are.
    """
    needed = list(dict.fromkeys(candidates))
    if not decided(needed):
        return []
    for x in tuple(needed):
        without = [y for y in needed if y != x]
        if decided(without):
            needed = without
    return needed


def explained(
    error: NeededError,
    ops: Iterable[Op],
    inputs: Mapping[str, str],
    entries: Mapping[str, Sequence[Value]] | None = None,
) -> UnsupportedError:
    """The error that names the inputs of the model from which the needed values follow.

    Args:
        ops: what was imported so far, at any depth.
        inputs: ONNX name of each value that is an input of the model.
        entries: what the parameters of regions that are not finished follow from.
    """
    sources = _sources(ops) | dict(entries or {})
    found: dict[str, None] = {}
    seen: set[str] = set()
    open_values = list(error.values)
    while open_values:
        name = open_values.pop().name
        if name not in seen:
            seen.add(name)
            open_values.extend(sources.get(name, ()))
            if name in inputs:
                found[inputs[name]] = None
    if not found:
        return UnsupportedError(error.message, error.remedy)
    names = [name for name in inputs.values() if name in found]
    shown = ", ".join(map(repr, names))
    return SteeredError(
        f"{error.message} It follows from the value of input{'s' * (len(names) > 1)} {shown}.",
        f"Fix it when compiling (--bind {names[0]}=FILE, or bind= in Python), or compile without --no-jit (jit=False), "
        "so that the program is specialised when it runs.",
        names,
    )


def _sources(ops: Iterable[Op]) -> dict[str, Sequence[Value]]:
    """What each value was made from."""
    found: dict[str, Sequence[Value]] = {}
    for op in ops:
        read = [x for x in op.inputs if x is not None]
        found |= {x.name: read for x in op.outputs if x is not None}
        for region in bodies(op):
            found |= _sources(region.ops)
            if isinstance(op, Loop):
                found |= {x.name: read for x in region.params}
    return found
