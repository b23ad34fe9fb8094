"""Taking the weights out of a serialised model without parsing them.

A ModelProto with hundreds of megabytes of weights is walked field by field in its wire format: the raw data of the
main graph's initialisers stays where it is (in a mapped file, say), and only the rest is parsed.
The field numbers are those of onnx.proto; the format is protobuf's: a tag `number << 3 | kind`, then a varint
(kind 0), 8 bytes (1), a length and bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9
_BYTES = 2


@attrs.frozen
class Weight:
    """An initialiser and where its raw data lies.

    Args:
        tensor: the initialiser without its raw data.
        start, length: bytes of the raw data in the file; length None: the tensor has none.
    """

    tensor: onnx.TensorProto
    start: int = 0
    length: int | None = None


def split(data: memoryview) -> tuple[onnx.ModelProto, list[Weight]]:
    """The model without the initialisers of its main graph, and those.

    Raises:
        DecodeError: the bytes are not a ModelProto, or they end early.
    """
    kept = bytearray()
    weights: list[Weight] = []
    for number, kind, start, content, end in _fields(data, 0, len(data)):
        if number == _MODEL_GRAPH and kind == _BYTES:
            graph = _graph(data, content, end, weights)
            kept += bytes([_MODEL_GRAPH << 3 | _BYTES]) + _varint(len(graph)) + graph
        else:
            kept += data[start:end]
    return onnx.ModelProto.FromString(bytes(kept)), weights


def _graph(data: memoryview, first: int, last: int, weights: list[Weight]) -> bytearray:
    kept = bytearray()
    for number, kind, start, content, end in _fields(data, first, last):
        if number == _GRAPH_INITIALIZER and kind == _BYTES:
            weights.append(_weight(data, content, end))
        else:
            kept += data[start:end]
    return kept


def _weight(data: memoryview, first: int, last: int) -> Weight:
    kept = bytearray()
    place: tuple[int, int] | None = None
    for number, kind, start, content, end in _fields(data, first, last):
        if number == _TENSOR_RAW_DATA and kind == _BYTES:
            place = content, end - content
        else:
            kept += data[start:end]
    tensor = onnx.TensorProto.FromString(bytes(kept))
    return Weight(tensor) if place is None else Weight(tensor, *place)


def _fields(data: memoryview, position: int, last: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, kind, start, start of the content and end of each field between two positions."""
    while position < last:
        start = position
        tag, position = _read_varint(data, position, last)
        kind = tag & 7
        content = position
        if kind == 0:
            _, position = _read_varint(data, position, last)
        elif kind == 1:
            position += 8
        elif kind == _BYTES:
            length, content = _read_varint(data, position, last)
            position = content + length
        elif kind == 5:
            position += 4
        else:
            raise DecodeError(f"Field {tag >> 3} has the unknown wire kind {kind}.")
        if position > last:
            raise DecodeError(f"Field {tag >> 3} ends after the bytes that hold it.")
        yield tag >> 3, kind, start, content, position


def _read_varint(data: memoryview, position: int, last: int) -> tuple[int, int]:
    value = shift = 0
    while position < last and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise DecodeError("A number does not end.")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
