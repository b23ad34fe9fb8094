"""`Net`: writes ONNX graphs node by node, with random weights and the habits of exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tilewright.testing.cases import Case

Array = npt.NDArray[Any]


class Net:
    """A graph under construction. Methods take and return names of values.

    Args:
        name: of the graph.
        seed: of all weights and inputs.
        opset: version of ONNX's operators.
    """

    def __init__(self, name: str, seed: int = 0, opset: int = 17) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._feeds: dict[str, Array] = {}
        self._count = 0

    def _fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}_{self._count}"

    # Leaves.

    def input(self, name: str, data: Array) -> str:
        """An input of the model with the array that tests feed it."""
        kind = helper.np_dtype_to_tensor_dtype(data.dtype)
        self._inputs.append(helper.make_tensor_value_info(name, kind, data.shape))
        self._feeds[name] = data
        return name

    def normal(self, name: str, *shape: int) -> str:
        """A float32 input, fed with standard normal numbers."""
        return self.input(name, self.rng.standard_normal(shape).astype(np.float32))

    def const(self, value: Any, dtype: str | None = None) -> str:
        """An initialiser with the given contents; Python integers become int64, floats float32."""
        array = np.asarray(value)
        if dtype is None and array.dtype == np.float64:
            array = array.astype(np.float32)
        name = self._fresh("const")
        self._weights.append(numpy_helper.from_array(array if dtype is None else array.astype(dtype), name))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A random initialiser; by default its variance is 1 / fan-in."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
        factor = fan_in**-0.5 if scale is None else scale
        return self.const((self.rng.standard_normal(shape) * factor).astype(np.float32))

    def positive(self, *shape: int) -> str:
        """A random initialiser around 1, for scales and variances."""
        return self.const((1 + 0.2 * self.rng.random(shape)).astype(np.float32))

    # Nodes.

    def op(self, kind: str, *inputs: str, count: int = 1, **attributes: Any) -> Any:
        """Adds a node; gives the name of its output, or a list of `count` names."""
        outputs = [self._fresh(f"/{self.name}/{kind}_output") for _ in range(count)]
        name = f"/{self.name}/{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs[0] if count == 1 else outputs

    def dim(self, x: str, axis: int) -> str:
        """Extent of a dimension as exporters ask for it: Shape, then Gather with a scalar constant."""
        return str(self.op("Gather", self.op("Shape", x), self.op("Constant", value_int=axis), axis=0))

    def view(self, x: str, *extents: str | int) -> str:
        """Reshape to a shape that is concatenated from computed and literal extents."""
        parts = []
        for extent in extents:
            if isinstance(extent, str):
                parts.append(self.op("Unsqueeze", extent, self.const([0])))
            else:
                parts.append(self.op("Constant", value_ints=[extent]))
        return str(self.op("Reshape", x, self.op("Concat", *parts, axis=0)))

    def linear(self, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        """x · W + b on the last dimension, as MatMul and Add."""
        product = self.op("MatMul", x, self.weight(inputs, outputs, scale=inputs**-0.5))
        return str(self.op("Add", self.weight(outputs, scale=0.1), product) if bias else product)

    def layer_norm(self, x: str, size: int, epsilon: float = 1e-5, composed: bool = False) -> str:
        """Layer normalisation of the last dimension, as one operator or written out as before opset 17."""
        scale, shift = self.positive(size), self.weight(size, scale=0.1)
        if not composed:
            return str(self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=epsilon))
        centred = self.op("Sub", x, self._mean(x))
        variance = self._mean(self.op("Pow", centred, self.const(2.0)))
        deviation = self.op("Sqrt", self.op("Add", variance, self.const(epsilon)))
        return str(self.op("Add", self.op("Mul", self.op("Div", centred, deviation), scale), shift))

    def _mean(self, x: str) -> str:
        if self.opset < 18:
            return str(self.op("ReduceMean", x, axes=[-1]))
        return str(self.op("ReduceMean", x, self.const([-1])))

    def gelu(self, x: str) -> str:
        """x/2 · (1 + erf(x/√2)), written out."""
        inner = self.op("Add", self.op("Erf", self.op("Div", x, self.const(2.0**0.5))), self.const(1.0))
        return str(self.op("Mul", self.op("Mul", x, inner), self.const(0.5)))

    def silu(self, x: str) -> str:
        """x · sigmoid(x)."""
        return str(self.op("Mul", x, self.op("Sigmoid", x)))

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: Sequence[int], bias: bool = True, **attributes: Any
    ) -> str:
        """Convolution; `group` in the attributes divides the inputs."""
        weights = self.weight(outputs, inputs // int(attributes.get("group", 1)), *kernel)
        biases = [self.weight(outputs, scale=0.1)] if bias else []
        return str(self.op("Conv", x, weights, *biases, kernel_shape=list(kernel), **attributes))

    def case(self, outputs: Mapping[str, str]) -> Case:
        """The finished model, with outputs given as {name: value}, and its inputs."""
        for name, source in outputs.items():
            self._nodes.append(helper.make_node("Identity", [source], [name], name=f"/{self.name}/{name}"))
        infos = [onnx.ValueInfoProto(name=x) for x in outputs]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, infos, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        return Case(self.name, onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), self._feeds)


def attention(net: Net, q: str, k: str, v: str, size: int, mask: str | None = None) -> str:
    """softmax(q·kᵀ/√size + mask)·v of `[batch, heads, sequence, size]`."""
    scores = attention_scores(net, q, k, size)
    if mask is not None:
        scores = net.op("Add", scores, mask)
    return str(net.op("MatMul", net.op("Softmax", scores, axis=-1), v))


def attention_scores(net: Net, q: str, k: str, size: int) -> str:
    """q·kᵀ/√size of `[batch, heads, sequence, size]`."""
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    return str(net.op("Div", scores, net.const(float(size) ** 0.5)))
