"""Reading a model: parse, take the weights out, check what remains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.tensors import to_array

OLDEST_OPSET = 7


@attrs.frozen
class Source:
    """A checked model without its weights.

    Args:
        proto: the model; its main graph has no initialisers left.
        weights: initialisers of the main graph by ONNX name, read-only.
        opsets: version of each imported operator domain ("" is ONNX's own).
        folder: where external data may lie, or None.
    """

    proto: onnx.ModelProto
    weights: Mapping[str, npt.NDArray[Any]]
    opsets: Mapping[str, int]
    folder: Path | None


def read(model: str | Path | bytes | onnx.ModelProto) -> Source:
    """Reads and checks a model.

    Raises:
        InputError: not a file, not ONNX, truncated or invalid.
        UnsupportedError: older than opset 7, sparse initialisers, or element types that the IR does not have.
    """
    proto, folder, what = _parse(model)
    weights = {t.name: to_array(t, folder, f"The initialiser {t.name!r} of {what}") for t in proto.graph.initializer}
    if proto.graph.sparse_initializer:
        raise UnsupportedError(
            f"{what} has sparse initialisers, which Tilewright does not read.", "Store them as dense tensors."
        )
    skeleton = _without_weights(proto)
    del proto
    _check(skeleton, weights, what)
    opsets = {_domain(x.domain): x.version for x in skeleton.opset_import}
    version = opsets.get("", onnx.defs.onnx_opset_version())
    if version < OLDEST_OPSET:
        raise UnsupportedError(
            f"{what} uses opset {version}; Tilewright reads opset {OLDEST_OPSET} and later.",
            "Export it again with a newer opset, or convert it with onnx.version_converter.",
        )
    return Source(skeleton, weights, opsets, folder)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _parse(model: str | Path | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None, str]:
    if isinstance(model, onnx.ModelProto):
        return model, None, "The model"
    if isinstance(model, bytes):
        return _decode(model, "The model"), None, "The model"
    path = Path(model)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The model {str(path)!r} cannot be read: {error.strerror or error}.", "Check the path."
        ) from None
    what = f"The model {path.name!r}"
    return _decode(data, what), path.parent, what


def _decode(data: bytes, what: str) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        proto = onnx.ModelProto()
    if not proto.ir_version and not proto.HasField("graph"):
        raise InputError(
            f"{what} is not an ONNX model, or it is truncated ({len(data)} bytes).",
            "Give a file that an ONNX exporter wrote.",
        )
    return proto


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What the compiler needs of the model, without initialisers; the given one is not touched."""
    skeleton = onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.MergeFrom(proto.opset_import)
    skeleton.functions.MergeFrom(proto.functions)
    graph = skeleton.graph
    graph.name = proto.graph.name
    graph.node.MergeFrom(proto.graph.node)
    graph.input.MergeFrom(proto.graph.input)
    graph.output.MergeFrom(proto.graph.output)
    graph.value_info.MergeFrom(proto.graph.value_info)
    return skeleton


def _check(skeleton: onnx.ModelProto, weights: Mapping[str, npt.NDArray[Any]], what: str) -> None:
    """ONNX's checker on the model with its weights standing as inputs, so that they are not copied."""
    checked = onnx.ModelProto()
    checked.CopyFrom(skeleton)
    present = {x.name for x in checked.graph.input}
    for name, array in weights.items():
        if name not in present:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            checked.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    try:
        onnx.checker.check_model(checked)
    except onnx.checker.ValidationError as error:
        raise InputError(
            f"{what} is not valid ONNX: {' '.join(str(error).split())}", "Export it again, or repair it."
        ) from None
