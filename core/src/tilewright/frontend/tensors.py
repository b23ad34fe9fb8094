"""TensorProto to NumPy: inline bytes, typed fields, and external files inside the model's folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tilewright.errors import InputError, UnsupportedError
from tilewright.ir import dtypes

_T = onnx.TensorProto
_DTYPES: dict[int, str] = {
    _T.FLOAT: "float32",
    _T.DOUBLE: "float64",
    _T.FLOAT16: "float16",
    _T.BFLOAT16: "bfloat16",
    _T.INT64: "int64",
    _T.INT32: "int32",
    _T.INT16: "int16",
    _T.INT8: "int8",
    _T.UINT64: "uint64",
    _T.UINT32: "uint32",
    _T.UINT16: "uint16",
    _T.UINT8: "uint8",
    _T.BOOL: "bool",
    **{getattr(_T, name.upper()): name for name in dtypes.NARROW},
}
_PACKED_BITS: dict[int, int] = {_T.INT4: 4, _T.UINT4: 4, _T.INT2: 2, _T.UINT2: 2, _T.FLOAT4E2M1: 4}
_NUMBERS = {name: number for number, name in _DTYPES.items()}


def dtype_of(element_type: int, what: str) -> str:
    """The IR's name of an ONNX element type. Raises UnsupportedError for one that the IR does not have."""
    if element_type not in _DTYPES:
        known = element_type in _T.DataType.values()
        name = _T.DataType.Name(element_type).lower() if known else f"number {element_type}"
        raise UnsupportedError(
            f"{what} has the element type {name}, which Tilewright does not have.",
            f"Types it has: {', '.join(dtypes.STORED)}.",
        )
    return _DTYPES[element_type]


def element_type(dtype: str) -> int:
    """ONNX's number of an element type of the IR."""
    return _NUMBERS[dtype]


def to_array(
    tensor: onnx.TensorProto, folder: Path | None, what: str, raw: memoryview | None = None
) -> npt.NDArray[Any]:
    """The tensor as a read-only array; external data is memory-mapped.

    Args:
        folder: the model's folder, or None when the model did not come from a file.
        what: how errors call the tensor.
        raw: its raw data, where that is not part of `tensor`.

    Raises:
        InputError: the bytes do not fit dtype and shape; the external file is missing, too short or outside `folder`.
        UnsupportedError: an element type that the IR does not have.
    """
    dtype = dtypes.to_numpy(dtype_of(tensor.data_type, what))
    shape = tuple(tensor.dims)
    if any(x < 0 for x in shape):
        raise InputError(f"{what} has a negative extent in its shape {list(shape)}.", "The model is damaged.")
    if dtypes.is_narrow(dtypes.from_numpy(dtype)):
        # Several elements may share a byte, which onnx takes apart.
        if tensor.data_location == _T.EXTERNAL:
            size = -(-math.prod(shape) * _PACKED_BITS.get(tensor.data_type, 8) // 8)
            raw = memoryview(_external(tensor, folder, np.dtype(np.uint8), (size,), what).tobytes())
        if raw is not None:
            tensor = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(raw))
    elif tensor.data_location == _T.EXTERNAL:
        return _external(tensor, folder, dtype, shape, what)
    elif raw is not None or tensor.HasField("raw_data"):
        data = tensor.raw_data if raw is None else raw
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise InputError(
                f"{what} needs {math.prod(shape) * dtype.itemsize} bytes for shape {list(shape)} of {dtype}, "
                f"found {len(data)}.",
                "The model is damaged or truncated.",
            )
        return np.frombuffer(data, dtype).reshape(shape)
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} cannot be read: {error}.", "The model is damaged or truncated.") from None
    array = array.astype(dtype, copy=False)
    array.setflags(write=False)
    return array


def _external(
    tensor: onnx.TensorProto, folder: Path | None, dtype: np.dtype[Any], shape: tuple[int, ...], what: str
) -> npt.NDArray[Any]:
    entries = {x.key: x.value for x in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise InputError(
            f"{what} keeps its data in the file {location!r}, but the model was not given as a path.",
            "Pass the path of the .onnx file.",
        )
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or not path.is_relative_to(root):
        raise InputError(
            f"{what} keeps its data in {location!r}, which is outside the model's folder.",
            "External data must lie in the folder of the .onnx file or below it; links count as what they point to.",
        )
    if not path.is_file():
        raise InputError(
            f"{what} keeps its data in {location!r}, which does not exist beside the model.",
            "Copy the data file into the model's folder.",
        )
    try:
        offset = int(entries.get("offset", "0"))
        size = path.stat().st_size
        length = int(entries.get("length", str(size - offset)))
    except ValueError:
        raise InputError(f"{what} has an offset or a length that is no number.", "The model is damaged.") from None
    needed = math.prod(shape) * dtype.itemsize
    if offset < 0 or length != needed or offset + length > size:
        raise InputError(
            f"{what} needs {needed} bytes for shape {list(shape)} of {dtype}; the model points to {length} bytes at "
            f"offset {offset} of {location!r}, which has {size}.",
            "The data file does not belong to this model or is truncated.",
        )
    if needed == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)
