"""Tensors in files: what `--input` reads and `--save-outputs` writes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.artifact.manifest import TensorInfo
from tilewright.errors import InputError
from tilewright.ir import dtypes


def read_inputs(given: Sequence[str], inputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The arrays that `--input NAME=FILE` options name; an .npz file without NAME= gives all of its arrays. A .pb file
    holds whatever the model declares: a tensor, a sequence or an optional.

    Raises:
        InputError: a file cannot be read, or holds something else.
    """
    declared = {info.name: info for info in inputs}
    found = read_arrays(given, "--input", declared)
    return {name: _as_declared(array, declared.get(name)) for name, array in found.items()}


def read_arrays(
    given: Sequence[str], option: str, declared: Mapping[str, TensorInfo] | None = None
) -> dict[str, Any]:
    """The arrays that options of the form NAME=FILE name, as they are in the files. Errors as for `read_inputs`.

    Args:
        declared: what is wanted, by name; without it .pb files hold tensors.
    """
    found: dict[str, Any] = {}
    infos = declared or {}
    for text in given:
        name, separator, file = text.rpartition("=")
        path = Path(file)
        if not separator:
            if path.suffix != ".npz":
                raise InputError(f"{option} {text!r} needs a name.", "Write NAME=FILE, or give an .npz file.")
            found.update(_read(path, None, infos))
        else:
            (found[name],) = _read(path, name, infos).values()
    return found


def _read(path: Path, name: str | None, declared: Mapping[str, TensorInfo]) -> dict[str, Any]:
    try:
        if path.suffix == ".pb":
            return {str(name): _proto(path, declared.get(str(name)))}
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


def _proto(path: Path, info: TensorInfo | None) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    form = "tensor" if info is None else info.form.partition(" ")[0]
    try:
        match form:
            case "sequence":
                return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
            case "optional":
                return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
        return np.asarray(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
    except (DecodeError, TypeError) as error:
        raise ValueError(f"it is no ONNX {form} ({error})") from error


def _as_declared(array: Any, info: TensorInfo | None) -> Any:
    """NumPy's files forget what a 2-byte type of another library is; the declaration knows."""
    if info is not None and info.is_plain and array.dtype.kind == "V":
        wanted = dtypes.to_numpy(info.dtype)
        if wanted.itemsize == array.dtype.itemsize:
            return array.view(wanted)
    return array


def save_outputs(folder: Path, outputs: Sequence[tuple[str, Any]]) -> list[Path]:
    """Writes each output to `folder` as NUMBER_NAME.npy, or .pb for what NumPy's files have no form for: bfloat16,
    sequences and empty optionals.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be created: {error.strerror}.") from error
    paths: list[Path] = []
    for number, (name, found) in enumerate(outputs):
        stem = f"{number}_{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}"
        if not isinstance(found, np.ndarray) or found.dtype == dtypes.to_numpy("bfloat16"):
            path = folder / f"{stem}.pb"
            path.write_bytes(_serialised(found, name))
        else:
            path = folder / f"{stem}.npy"
            np.save(path, found.astype(np.str_) if found.dtype == object else found, allow_pickle=False)
        paths.append(path)
    return paths


def _serialised(found: Any, name: str) -> bytes:
    """A value as ONNX's own message of its kind."""
    import onnx

    match found:
        case None:
            message: Any = onnx.OptionalProto(name=name)
        case list():
            message = onnx.numpy_helper.from_list(found, name)
        case _:
            message = onnx.numpy_helper.from_array(found, name)
    return bytes(message.SerializeToString())
