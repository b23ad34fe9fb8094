"""Reading a model: parse, take the weights out, check what remains."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend import wire
from tilewright.frontend.functions import plain_domain
from tilewright.frontend.reference import reads
from tilewright.frontend.tensors import to_array

Array = npt.NDArray[Any]

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
    weights: Mapping[str, Array]
    opsets: Mapping[str, int]
    folder: Path | None

    @property
    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The inputs that have no default value."""
        return tuple(x for x in self.proto.graph.input if x.name not in self.weights)


def read(model: str | Path | bytes | onnx.ModelProto) -> Source:
    """Reads and checks a model. The weights of a file are mapped, not copied.

    Raises:
        InputError: not a file, not ONNX, truncated or invalid.
        UnsupportedError: older than opset 7 and not convertible, sparse initialisers, or element types that the IR does
            not have.
    """
    try:
        skeleton, weights, folder, what = _parse(model)
        if any(isinstance(x, bytes) for x in _texts(skeleton)):  # what protobuf gives where decoding fails
            raise InputError("The model holds names that are not UTF-8.", "The model is damaged.")
        checked = _check(skeleton, weights, what)
    except UnicodeDecodeError:
        raise InputError("The model holds names that are not UTF-8.", "The model is damaged.") from None
    if skeleton.graph.sparse_initializer:
        raise UnsupportedError(
            f"{what} has sparse initialisers, which Tilewright does not read.", "Store them as dense tensors."
        )
    opsets = {plain_domain(x.domain): x.version for x in skeleton.opset_import}
    version = opsets.get("", onnx.defs.onnx_opset_version())
    if version < OLDEST_OPSET:
        skeleton = _converted(checked, weights, f"{what} uses opset {version}")
        opsets[""] = OLDEST_OPSET
    return Source(skeleton, weights, opsets, folder)


def stored(source: Source) -> bytes:
    """The model without its weights, as `restored` takes it; it needs no other file any more."""
    proto = source.proto
    if source.folder is not None and any(x.data_location == onnx.TensorProto.EXTERNAL for x in _inner_tensors(proto)):
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
        for tensor in _inner_tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                array = to_array(tensor, source.folder, f"The tensor {tensor.name!r}")
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), tensor.name))
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def restored(data: bytes, weights: Mapping[str, Array]) -> Source:
    """The model that `stored` wrote, with its weights.

    Raises:
        InputError: the bytes are no such model.
    """
    what = "The model in the artifact"
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise InputError(f"{what} cannot be read: {error}.", "Compile it again.") from None
    for node in proto.graph.node:
        _check(_alone(node, proto), {}, what)
    return Source(proto, weights, {plain_domain(x.domain): x.version for x in proto.opset_import}, None)


def _alone(node: onnx.NodeProto, of: onnx.ModelProto) -> onnx.ModelProto:
    """A node of a model as a model. In a part of one an input may have a name that a graph inside a node has, too."""
    found = onnx.ModelProto(ir_version=of.ir_version)
    found.opset_import.MergeFrom(of.opset_import)
    found.functions.MergeFrom(of.functions)
    found.graph.name = "node"
    found.graph.node.append(node)
    for infos, names in ((found.graph.input, sorted(reads(node))), (found.graph.output, filter(None, node.output))):
        # The checker wants some type, and does not look at it.
        infos.extend(onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, None) for x in names)
    return found


def _inner_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors in attributes, and the weights of inner graphs."""
    nodes = [*proto.graph.node, *(node for f in proto.functions for node in f.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                nodes.extend(graph.node)


def _converted(checked: onnx.ModelProto, weights: dict[str, Array], what: str) -> onnx.ModelProto:
    """The model at the oldest opset that is read, by ONNX's own converter, whose new constants join the weights."""
    try:
        found = onnx.version_converter.convert_version(checked, OLDEST_OPSET)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise UnsupportedError(
            f"{what}; Tilewright reads opset {OLDEST_OPSET} and later, and ONNX cannot convert it: "
            f"{' '.join(str(error).split())}",
            "Export it again with a newer opset.",
        ) from None
    weights.update({t.name: to_array(t, None, f"The initialiser {t.name!r}") for t in found.graph.initializer})
    _spread_slopes(found, weights)
    return found


def _spread_slopes(model: onnx.ModelProto, weights: dict[str, Array]) -> None:
    """PRelu's slopes as opset 7 broadcasts them. Before, a vector meant the channels, which the converter forgets."""
    typed = onnx.shape_inference.infer_shapes(model)
    ranks = {x.name: len(x.type.tensor_type.shape.dim) for x in (*typed.graph.input, *typed.graph.value_info)}
    for node in (x for x in model.graph.node if x.op_type == "PRelu"):
        slope = weights.get(node.input[1])
        rank = ranks.get(node.input[0], 0)
        if slope is not None and slope.ndim == 1 and slope.size > 1 and rank > 2:
            weights[node.input[1]] = slope.reshape(-1, *[1] * (rank - 2))


def _parse(
    model: str | Path | bytes | onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, Array], Path | None, str]:
    """The model without weights, the weights, the folder of external data, and how errors call the model."""
    what, folder = "The model", None
    if isinstance(model, onnx.ModelProto):
        skeleton = _without_weights(model)
        kept = _without_strings(skeleton, model.graph.initializer)
        return skeleton, {t.name: to_array(t, None, _called(t, what)) for t in kept}, None, what
    if isinstance(model, bytes):
        data = memoryview(model)
    else:
        path = Path(model)
        what, folder, data = f"The model {path.name!r}", path.parent, _map(path)
    try:
        skeleton, found = wire.split(data)
    except DecodeError:
        skeleton, found = onnx.ModelProto(), []
    if not skeleton.ir_version and not skeleton.HasField("graph"):
        raise InputError(
            f"{what} is not an ONNX model, or it is truncated ({len(data)} bytes).",
            "Give a file that an ONNX exporter wrote.",
        )
    weights = {}
    numbers = {t.name for t in _without_strings(skeleton, [x.tensor for x in found])}
    for weight in (x for x in found if x.tensor.name in numbers):
        raw = None if weight.length is None else data[weight.start : weight.start + weight.length]
        weights[weight.tensor.name] = to_array(weight.tensor, folder, _called(weight.tensor, what), raw)
    return skeleton, weights, folder, what


def _without_strings(skeleton: onnx.ModelProto, initialisers: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
    """The initialisers that are numbers. Those of strings become nodes of the model, for which there may be means."""
    kept = []
    for tensor in initialisers:
        if tensor.data_type != onnx.TensorProto.STRING:
            kept.append(tensor)
            continue
        node = onnx.helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor)
        skeleton.graph.node.insert(0, node)
        for position in reversed([n for n, x in enumerate(skeleton.graph.input) if x.name == tensor.name]):
            del skeleton.graph.input[position]
    return kept


def _called(tensor: onnx.TensorProto, what: str) -> str:
    return f"The initialiser {tensor.name!r} of {what[0].lower() + what[1:]}"


def _map(path: Path) -> memoryview:
    """The bytes of a file, read when they are touched."""
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(
            f"The model {str(path)!r} cannot be read: {error.strerror or error}.", "Check the path."
        ) from None


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
    graph.sparse_initializer.MergeFrom(proto.graph.sparse_initializer)
    return skeleton


def _texts(proto: onnx.ModelProto) -> Iterator[object]:
    """Every name in the model."""
    yield from (x.domain for x in proto.opset_import)
    yield from (x.name for x in (*proto.graph.input, *proto.graph.output))
    nodes = [*proto.graph.node, *(node for f in proto.functions for node in f.node)]
    while nodes:
        node = nodes.pop()
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            nodes.extend(attribute.g.node)
            nodes.extend(inner for graph in attribute.graphs for inner in graph.node)


def _check(skeleton: onnx.ModelProto, weights: Mapping[str, Array], what: str) -> onnx.ModelProto:
    """ONNX's checker on the model with its weights standing as inputs, so that they are not copied; that model."""
    checked = onnx.ModelProto()
    checked.CopyFrom(skeleton)
    present = {x.name for x in checked.graph.input}
    for name, array in weights.items():
        if name not in present:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            checked.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    for info in (*checked.graph.input, *checked.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()  # the checker wants one, which ONNX's text lets out
    try:
        onnx.checker.check_model(checked)
    except onnx.checker.ValidationError as error:
        raise InputError(
            f"{what} is not valid ONNX: {' '.join(str(error).split())}", "Export it again, or repair it."
        ) from None
    return checked
