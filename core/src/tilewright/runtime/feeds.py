"""Checking what a caller gives to a program, and turning it into arrays the program can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.artifact.extents import value_of
from tilewright.artifact.manifest import UNRANKED, TensorInfo
from tilewright.errors import InputError, did_you_mean
from tilewright.ir import dtypes
from tilewright.runtime.native import Array
from tilewright.values import normal

_HOST_DEVICES = (1, 3)  # DLPack: CPU, and host memory pinned for CUDA


def check_names(what: str, given: Sequence[str], declared: Sequence[TensorInfo]) -> None:
    """Raises InputError for a name that is not declared, and suggests the near one."""
    known = [info.name for info in declared]
    for name in given:
        if name not in known:
            raise InputError(f"The model has no {what} named {name!r}.", did_you_mean(str(name), known, "It has"))


def prepare(feeds: Mapping[str, object], inputs: Sequence[TensorInfo]) -> list[Any]:
    """The arrays (or other values, see `tilewright.values`) of `feeds` in the order of `inputs`.

    An array that is contiguous is passed on as it is, any other is copied.

    Args:
        feeds: by input name: NumPy arrays, or anything that offers DLPack.
        inputs: what the program declares.

    Raises:
        InputError: a name is missing or unknown, or a dtype is not the declared one.
    """
    check_names("input", list(feeds), inputs)
    missing = [info.name for info in inputs if info.name not in feeds]
    if missing:
        names = ", ".join(map(repr, missing))
        raise InputError(f"The model needs the input{'s' * (len(missing) > 1)} {names}, and none was given.")
    return [(_prepare if info.is_plain else _prepare_value)(info, feeds[info.name]) for info in inputs]


def _prepare(info: TensorInfo, given: object) -> Array:
    array = _as_array(info, given)
    wanted = dtypes.to_numpy(info.dtype)
    if array.dtype != wanted:
        raise InputError(
            f"Input {info.name!r} needs dtype {wanted} and was given {array.dtype}.", f"Convert it to {wanted} first."
        )
    # ascontiguousarray would give a scalar one dimension
    return array if array.flags.c_contiguous else array.copy(order="C")


def symbols_of(
    arrays: Sequence[Array], inputs: Sequence[TensorInfo], bounds: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, int]:
    """The extent of each symbol in the shapes of `inputs` for arrays that were given for them.

    Args:
        bounds: the smallest and the largest value of each symbol that has them.

    Raises:
        InputError: a shape is not the declared one.
    """
    symbols: dict[str, int] = {}
    computed: list[tuple[TensorInfo, Array, int]] = []
    for info, array in zip(inputs, arrays, strict=True):
        if info.shape == UNRANKED:
            continue
        if array.ndim != len(info.shape):
            raise _wrong_shape(info, array, f"it needs {len(info.shape)} dimensions")
        for axis, (extent, declared) in enumerate(zip(array.shape, info.shape, strict=True)):
            if isinstance(declared, int):
                if extent != declared:
                    raise _wrong_shape(info, array, f"dimension {axis} must be {declared}")
                continue
            if bounds is not None and declared not in bounds:
                computed.append((info, array, axis))
                continue
            if symbols.setdefault(declared, extent) != extent:
                known = symbols[declared]
                raise _wrong_shape(info, array, f"dimension {axis} is {declared!r}, which is {known} elsewhere")
            low, high = (extent, extent) if bounds is None else bounds[declared]
            if not low <= extent <= high:
                raise _wrong_shape(info, array, f"dimension {axis} ({declared!r}) may be {low} to {high}")
    for info, array, axis in computed:
        wanted = value_of(info.shape[axis], symbols)
        if array.shape[axis] != wanted:
            raise _wrong_shape(info, array, f"dimension {axis} ({info.shape[axis]}) must be {wanted} here")
    return symbols


def _wrong_shape(info: TensorInfo, array: Array, why: str) -> InputError:
    return InputError(
        f"Input {info.name!r} is declared as {info} and was given the shape {list(array.shape)}: {why}.",
        "Give an array of that shape, or compile the model for another one with --shape.",
    )


def _as_array(info: TensorInfo, given: Any) -> Array:
    if isinstance(given, np.ndarray | np.generic):
        return np.asarray(given)
    if not hasattr(given, "__dlpack__"):
        raise InputError(
            f"Input {info.name!r} needs a NumPy array or an object with DLPack, not {type(given).__name__}.",
            f"Wrap it: numpy.asarray(value, {str(dtypes.to_numpy(info.dtype))!r}).",
        )
    if given.__dlpack_device__()[0] not in _HOST_DEVICES:
        raise InputError(
            f"Input {info.name!r} lies in the memory of a device.", "Copy it to the host first, as with .cpu()."
        )
    try:
        return np.from_dlpack(given)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"Input {info.name!r} cannot be taken over through DLPack: {error}.", "Give a NumPy array instead."
        ) from error


def refuse_others(infos: Iterable[TensorInfo], who: str) -> None:
    """Raises InputError for an input or output that `who`, which handles tensors of numbers only, cannot handle."""
    for info in infos:
        if not info.is_plain:
            raise InputError(f"{who} takes tensors of numbers only; {info.name!r} is {info}.", "Use `tilewright run`.")


def _prepare_value(info: TensorInfo, given: Any) -> Any:
    """What was given for an input that is no tensor of numbers, in its one form.

    Raises:
        InputError: it is something else than the input is declared to be.
    """
    if info.dtype == "string":
        array = np.asarray(given, None if isinstance(given, np.ndarray) else object)
        found = normal(array)
        if not all(isinstance(x, str) for x in found.reshape(-1)):
            raise InputError(
                f"Input {info.name!r} needs strings and was given {array.dtype}.",
                "Give an array of str, or of objects that are str.",
            )
        return found
    if info.form.startswith("sequence") and not isinstance(given, list | tuple):
        raise InputError(
            f"Input {info.name!r} is a {info.form} and was given {type(given).__name__}.", "Give a list of arrays."
        )
    return normal(given)
