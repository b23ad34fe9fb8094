"""Tensors in files: what `--input` reads and `--save-outputs` writes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.artifact.manifest import TensorInfo
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.runtime.native import Array


def read_inputs(given: Sequence[str], inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    """The arrays that `--input NAME=FILE` options name; an .npz file without NAME= gives all of its arrays.

    Raises:
        InputError: a file cannot be read, or holds something else.
    """
    declared = {info.name: info for info in inputs}
    return {name: _as_declared(array, declared.get(name)) for name, array in read_arrays(given, "--input").items()}


def read_arrays(given: Sequence[str], option: str) -> dict[str, Array]:
    """The arrays that options of the form NAME=FILE name, as they are in the files. Errors as for `read_inputs`."""
    found: dict[str, Array] = {}
    for text in given:
        name, separator, file = text.rpartition("=")
        path = Path(file)
        if not separator:
            if path.suffix != ".npz":
                raise InputError(f"{option} {text!r} needs a name.", "Write NAME=FILE, or give an .npz file.")
            found.update(_read(path, None))
        else:
            (found[name],) = _read(path, name).values()
    return found


def _read(path: Path, name: str | None) -> dict[str, Array]:
    try:
        if path.suffix == ".pb":
            return {str(name): _tensor_proto(path)}
        found: Any = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {str(name): found}
        with found:
            arrays = {key: found[key] for key in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give a .npy, .npz or .pb file.") from error
    if name is None:
        return arrays
    if name in arrays or len(arrays) == 1:
        return {name: arrays[name] if name in arrays else next(iter(arrays.values()))}
    raise InputError(f"{path} has no array {name!r}; it has {', '.join(map(repr, arrays))}.")


def _tensor_proto(path: Path) -> Array:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return np.asarray(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
    except (DecodeError, TypeError) as error:
        raise ValueError(f"it is no ONNX tensor ({error})") from error


def _as_declared(array: Array, info: TensorInfo | None) -> Array:
    """NumPy's files forget what a 2-byte type of another library is; the declaration knows."""
    if info is not None and array.dtype.kind == "V":
        wanted = dtypes.to_numpy(info.dtype)
        if wanted.itemsize == array.dtype.itemsize:
            return array.view(wanted)
    return array


def save_outputs(folder: Path, outputs: Sequence[tuple[str, Array]]) -> list[Path]:
    """Writes each output to `folder` as NUMBER_NAME.npy, or .pb for bfloat16, which NumPy's files cannot
    name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be created: {error.strerror}.") from error
    paths: list[Path] = []
    for number, (name, array) in enumerate(outputs):
        stem = f"{number}_{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}"
        if array.dtype == dtypes.to_numpy("bfloat16"):
            import onnx

            path = folder / f"{stem}.pb"
            path.write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())
        else:
            path = folder / f"{stem}.npy"
            np.save(path, array, allow_pickle=False)
        paths.append(path)
    return paths
