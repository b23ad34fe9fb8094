"""ONNX graphs as PyTorch modules that run eagerly, under a CUDA graph, and through torch.compile.

What depends on constants and shapes alone is computed once, when the module is made, so that PyTorch runs the
arithmetic only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Attributes = Mapping[str, Any]
Make = Callable[[Attributes, Sequence[Any]], Callable[..., Any]]

HOST_ARGUMENTS = {
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceL2": (1,),
    "ReduceMean": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that must be known when the module is made."""


class OnnxModule(torch.nn.Module):
    """A model on a device.

    Args:
        model: straight-line, with static shapes.
        feeds: an array for each input; the module is run on them once to learn the shapes.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], device: str) -> None:
        super().__init__()
        self._device = device
        self._opset = next(x.version for x in model.opset_import if x.domain in ("", "ai.onnx"))
        graph = model.graph
        host: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in host]
        self.outputs = [o.name for o in graph.output]
        live: dict[str, torch.Tensor] = {n: torch.from_numpy(feeds[n]).to(device) for n in self.inputs}
        self._steps: list[tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]] = []
        for node in graph.node:
            if node.op_type == "Shape":
                shape = live[node.input[0]].shape if node.input[0] in live else host[node.input[0]].shape
                host[node.output[0]] = np.array(shape, np.int64)
            elif all(x in host for x in node.input if x):
                host.update(zip(node.output, self._fold(node, host), strict=False))
            else:
                self._add(node, host, live)

    def _fold(self, node: onnx.NodeProto, host: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        names = [x for x in dict.fromkeys(node.input) if x]
        values = [onnx.ValueInfoProto(name=n) for n in names]
        outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        graph = helper.make_graph([node], "node", values, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        return [np.asarray(x) for x in ReferenceEvaluator(model).run(None, {n: host[n] for n in names})]

    def _add(self, node: onnx.NodeProto, host: Mapping[str, np.ndarray], live: dict[str, torch.Tensor]) -> None:
        kind = node.op_type
        if kind not in OPERATORS:
            raise NotImplementedError(f"operator {kind} of node {node.name!r} has no PyTorch form in this benchmark")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} | {"opset": self._opset}
        attributes["shapes"] = [tuple(live[x].shape) if x in live else np.shape(host.get(x, ())) for x in node.input]
        attributes["outputs"] = len(node.output)
        fixed = HOST_ARGUMENTS.get(kind, ())
        constants = [host.get(x) if i in fixed else None for i, x in enumerate(node.input)]
        names = tuple(self._tensor(x, host, live) for i, x in enumerate(node.input) if x and i not in fixed)
        call = OPERATORS[kind](attributes, constants)
        with torch.no_grad():
            results = call(*(self._value(x, live) for x in names))
        results = results if isinstance(results, tuple | list) else (results,)
        outputs = tuple(node.output)[: len(results)]
        live.update(zip(outputs, results, strict=True))
        self._steps.append((call, names, outputs))

    def _tensor(self, name: str, host: Mapping[str, np.ndarray], live: Mapping[str, torch.Tensor]) -> str:
        """The name under which `forward` finds a value; constants become buffers."""
        if name in live:
            return name
        key = "constant_" + "".join(c if c.isalnum() else f"_{ord(c)}_" for c in name)
        if not hasattr(self, key):
            self.register_buffer(key, torch.from_numpy(np.array(host[name])).to(self._device))
        return "=" + key

    def _value(self, name: str, live: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return getattr(self, name[1:]) if name[0] == "=" else live[name]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        live = dict(zip(self.inputs, inputs, strict=True))
        for call, names, outputs in self._steps:
            results = call(*[self._value(x, live) for x in names])
            if not isinstance(results, (tuple, list)):
                results = (results,)
            live.update(zip(outputs, results))  # noqa: B905 - torch.compile does not trace `strict`
        return tuple(live[x] for x in self.outputs)


def _plain(function: Callable[..., Any]) -> Make:
    return lambda a, c: function


def _pads(a: Attributes) -> tuple[list[int], list[int], bool]:
    """Padding before and after each spatial axis, and whether they are equal."""
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise NotImplementedError("auto_pad")
    rank = len(a["shapes"][0]) - 2
    pads = list(a.get("pads", [0] * (2 * rank)))
    return pads[:rank], pads[rank:], pads[:rank] == pads[rank:]


def _around(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Padding as F.pad takes it: last axis first."""
    return [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]


def _conv(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    before, after, equal = _pads(a)
    rank = len(before)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    strides, dilations, group = a.get("strides", [1] * rank), a.get("dilations", [1] * rank), a.get("group", 1)

    def call(x: Any, w: Any, b: Any = None) -> Any:
        if not equal:
            x = F.pad(x, _around(before, after))
        return function(x, w, b, strides, before if equal else 0, dilations, group)

    return call


def _conv_transpose(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    before, _, equal = _pads(a)
    if not equal or "output_shape" in a:
        raise NotImplementedError("transposed convolution with unequal pads or a given output shape")
    rank = len(before)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    strides, extra = a.get("strides", [1] * rank), a.get("output_padding", [0] * rank)
    dilations = a.get("dilations", [1] * rank)
    return lambda x, w, b=None: function(x, w, b, strides, before, extra, a.get("group", 1), dilations)


def _max_pool(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    before, after, equal = _pads(a)
    kernel, ceil = a["kernel_shape"], bool(a.get("ceil_mode", 0))
    strides = a.get("strides", [1] * len(kernel))
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    if equal and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return lambda x: function(x, kernel, strides, before, ceil_mode=ceil)
    return lambda x: function(F.pad(x, _around(before, after), value=float("-inf")), kernel, strides, ceil_mode=ceil)


def _average_pool(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    before, after, equal = _pads(a)
    kernel, ceil, include = a["kernel_shape"], bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    strides = a.get("strides", [1] * len(kernel))
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    if equal:
        return lambda x: function(x, kernel, strides, before, ceil, include)
    around = _around(before, after)
    if include:
        return lambda x: function(F.pad(x, around), kernel, strides, 0, ceil)

    def call(x: Any) -> Any:
        inside = function(F.pad(torch.ones_like(x[:1, :1]), around), kernel, strides, 0, ceil)
        return function(F.pad(x, around), kernel, strides, 0, ceil) / inside

    return call


def _gemm(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    left, right = bool(a.get("transA", 0)), bool(a.get("transB", 0))

    def call(x: Any, w: Any, b: Any = None) -> Any:
        x, w = x.t() if left else x, w.t() if right else w
        if b is not None:
            return torch.addmm(b, x, w, beta=beta, alpha=alpha)
        return x @ w if alpha == 1.0 else alpha * (x @ w)

    return call


def _softmax(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape = a["shapes"][0]
    if a["opset"] >= 13:
        return lambda x: torch.softmax(x, a.get("axis", -1))
    first = a.get("axis", 1) % len(shape)
    rows = int(np.prod(shape[:first]))
    return lambda x: torch.softmax(x.reshape(rows, -1), 1).reshape(shape)


def _axes(a: Attributes, c: Sequence[Any]) -> list[int] | None:
    given = c[1] if len(c) > 1 and c[1] is not None else a.get("axes")
    return None if given is None else [int(x) for x in given]


def _unsqueeze(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape, axes = list(a["shapes"][0]), _axes(a, c) or []
    for axis in sorted(x % (len(shape) + len(axes)) for x in axes):
        shape.insert(axis, 1)
    return lambda x: x.reshape(shape)


def _squeeze(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape, axes = a["shapes"][0], _axes(a, c)
    dropped = [i for i, n in enumerate(shape) if n == 1] if axes is None else [x % len(shape) for x in axes]
    return lambda x: x.reshape([n for i, n in enumerate(shape) if i not in dropped])


def _reshape(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape = [a["shapes"][0][i] if n == 0 else int(n) for i, n in enumerate(c[1])]
    return lambda x: x.reshape(shape)


def _flatten(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    rows = int(np.prod(a["shapes"][0][: a.get("axis", 1)]))
    return lambda x: x.reshape(rows, -1)


def _reduce_mean(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    axes = _axes(a, c) or list(range(len(a["shapes"][0])))
    return lambda x: x.mean(axes, keepdim=bool(a.get("keepdims", 1)))


def _reduce_l2(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    axes = _axes(a, c) or list(range(len(a["shapes"][0])))
    return lambda x: torch.linalg.vector_norm(x, dim=axes, keepdim=bool(a.get("keepdims", 1)))


def _clip(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    low, high = (None if i >= len(c) or c[i] is None else float(c[i]) for i in (1, 2))
    return lambda x: torch.clamp(x, low, high)


def _depth_to_space(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    if a.get("mode", b"DCR") != b"CRD":
        raise NotImplementedError("DepthToSpace other than CRD")
    return lambda x: F.pixel_shuffle(x, a["blocksize"])


def _slice(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape = a["shapes"][0]
    starts, ends = (c[1], c[2]) if len(c) > 2 else (a["starts"], a["ends"])
    axes = c[3] if len(c) > 3 and c[3] is not None else a.get("axes", range(len(starts)))
    steps = c[4] if len(c) > 4 and c[4] is not None else [1] * len(starts)
    index = [slice(None)] * len(shape)
    for first, last, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[int(axis)] = slice(int(first), min(int(last), shape[int(axis)]), int(step))
    where = tuple(index)
    return lambda x: x[where]


def _gather(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    axis, shape, places = a.get("axis", 0), a["shapes"][0], a["shapes"][1]
    axis %= len(shape)
    result = [*shape[:axis], *places, *shape[axis + 1 :]]
    return lambda x, i: torch.index_select(x, axis, torch.where(i < 0, i + shape[axis], i).reshape(-1)).reshape(result)


def _split(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    axis = a.get("axis", 0)
    sizes = c[1] if len(c) > 1 and c[1] is not None else a.get("split")
    if sizes is None:
        sizes = [a["shapes"][0][axis] // a["outputs"]] * a["outputs"]
    lengths = [int(x) for x in sizes]
    return lambda x: torch.split(x, lengths, axis)


def _top_k(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    count, axis = int(c[1].item()), a.get("axis", -1)
    return lambda x: tuple(torch.topk(x, count, axis, bool(a.get("largest", 1)), bool(a.get("sorted", 1))))


def _scatter_elements(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    if a.get("reduction", b"none") != b"none":
        raise NotImplementedError("ScatterElements with a reduction")
    return lambda x, i, updates: x.scatter(a.get("axis", 0), i, updates)


def _scatter_nd(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    if a.get("reduction", b"none") != b"add" or a["shapes"][1][1:] != (1,):
        raise NotImplementedError("ScatterND other than rows that are added")
    return lambda x, i, updates: x.index_add(0, i.reshape(-1), updates)


def _pad(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    rank = len(a["shapes"][0])
    pads = [int(x) for x in (c[1] if len(c) > 1 else a["pads"])]
    if a.get("mode", b"constant") != b"constant" or (len(c) > 3 and c[3] is not None):
        raise NotImplementedError("Pad other than constant padding of all axes")
    fill = float(c[2]) if len(c) > 2 and c[2] is not None else 0.0
    return lambda x: F.pad(x, _around(pads[:rank], pads[rank:]), value=fill)


def _resize(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape = a["shapes"][0]
    by_size = len(c) > 3 and c[3] is not None
    scales = np.array(c[3]) / np.array(shape) if by_size else c[2]
    if list(scales[:2]) != [1, 1]:
        raise NotImplementedError("Resize of batch or channels")
    mode, places = a.get("mode", b"nearest"), a.get("coordinate_transformation_mode", b"half_pixel")
    if (mode, places) == (b"linear", b"half_pixel") and by_size and len(shape) == 4:
        return lambda x: F.interpolate(x, [int(n) for n in c[3][2:]], mode="bilinear", align_corners=False)
    factors = [int(x) for x in scales]
    if mode != b"nearest" or list(scales) != factors:
        raise NotImplementedError("Resize other than nearest by whole factors and bilinear to a size")
    return lambda x: F.interpolate(x, scale_factor=factors[2:], mode="nearest")


def _cast(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    dtype = getattr(torch, str(helper.tensor_dtype_to_np_dtype(a["to"])))
    return lambda x: x.to(dtype)


def _batch_norm(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    return lambda x, w, b, mean, var: F.batch_norm(x, mean, var, w, b, False, 0.0, a.get("epsilon", 1e-5))


def _layer_norm(a: Attributes, c: Sequence[Any]) -> Callable[..., Any]:
    shape = list(a["shapes"][0][a.get("axis", -1) :])
    return lambda x, w, b=None: F.layer_norm(x, shape, w, b, a.get("epsilon", 1e-5))


def _sum(*values: Any) -> Any:
    total = values[0]
    for x in values[1:]:
        total = total + x
    return total


OPERATORS: Mapping[str, Make] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, c: lambda *x: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": _plain(torch.div),
    "Dropout": _plain(lambda x: x),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Expand": lambda a, c: lambda x: x * torch.ones([int(n) for n in c[1]], dtype=x.dtype, device=x.device),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, c: lambda x: x.mean(list(range(2, x.dim())), keepdim=True),
    "Identity": _plain(lambda x: x),
    "InstanceNormalization": lambda a, c: (
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=a.get("epsilon", 1e-5))
    ),
    "LRN": lambda a, c: (
        lambda x: F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))
    ),
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "ReduceL2": _reduce_l2,
    "ReduceMean": _reduce_mean,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _plain(_sum),
    "Tanh": _plain(torch.tanh),
    "TopK": _top_k,
    "Transpose": lambda a, c: lambda x: x.permute(a.get("perm") or list(range(x.dim()))[::-1]),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
