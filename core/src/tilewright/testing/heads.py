"""Models of attention, and what they compute, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tilewright.ir import dtypes
from tilewright.testing.cases import node

Array = npt.NDArray[Any]
Mask = Literal["", "added", "where", "causal", "causal added"]


@attrs.frozen
class Heads:
    """Scaled dot product attention of several heads.

    Args:
        mask: "added" to the scores, "where" they are kept by an input of booleans, "causal" by a constant triangle, or
            "causal added" as a triangle of -inf.
        sharing: heads of the queries that share keys and values.
        joined: whether heads lie beside each other in memory, `[batch, rows, heads * depth]`.
        dtype: of everything but a mask of booleans.
    """

    rows: int
    keys: int
    depth: int = 32
    columns: int = 32
    heads: int = 2
    batch: int = 1
    mask: Mask = ""
    sharing: int = 1
    joined: bool = False
    dtype: str = "float16"

    @property
    def scale(self) -> float:
        """What scores are multiplied with, as the dtype has it."""
        return float(np.asarray(self.depth**-0.5).astype(dtypes.to_numpy(self.dtype)))

    def feeds(self, seed: int = 0) -> dict[str, Array]:
        """Inputs of the model by name."""
        rng = np.random.default_rng(seed)
        kept = self.heads // self.sharing
        shapes = {
            "q": (self.batch, self.heads, self.rows, self.depth),
            "k": (self.batch, kept, self.keys, self.depth),
            "v": (self.batch, kept, self.keys, self.columns),
        }
        found: dict[str, Array] = {}
        for name, (batch, heads, length, width) in shapes.items():
            shape = (batch, length, heads * width) if self.joined else (batch, heads, length, width)
            found[name] = rng.standard_normal(shape).astype(dtypes.to_numpy(self.dtype))
        if self.mask == "added":
            found["m"] = rng.standard_normal((self.batch, 1, self.rows, self.keys)).astype(found["q"].dtype)
        elif self.mask == "where":
            found["m"] = rng.random((self.rows, self.keys)) < 0.6
        return found

    def model(self) -> onnx.ModelProto:
        """The model as exporters write it."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtypes.to_numpy(self.dtype)))
        weights: dict[str, Array] = {"scale": np.asarray(self.scale).astype(dtypes.to_numpy(self.dtype))}
        nodes: list[onnx.NodeProto] = []
        kept = self.heads // self.sharing
        sizes = {"q": (self.rows, self.depth), "k": (self.keys, self.depth), "v": (self.keys, self.columns)}
        for name, (length, width) in sizes.items():
            heads = self.heads if name == "q" else kept
            last = name
            if self.joined:
                weights[f"{name}_split"] = np.asarray([self.batch, length, heads, width])
                nodes.append(node("Reshape", f"{name} {name}_split", f"{name}1"))
                nodes.append(node("Transpose", f"{name}1", f"{name}2", perm=[0, 2, 1, 3]))
                last = f"{name}2"
            if heads != self.heads:
                weights["one"] = np.asarray([2])
                weights[f"{name}_wide"] = np.asarray([self.batch, heads, self.sharing, length, width])
                weights[f"{name}_flat"] = np.asarray([self.batch, self.heads, length, width])
                nodes.append(node("Unsqueeze", f"{last} one", f"{name}3"))
                nodes.append(node("Expand", f"{name}3 {name}_wide", f"{name}4"))
                nodes.append(node("Reshape", f"{name}4 {name}_flat", f"{name}5"))
                last = f"{name}5"
            nodes.append(node("Identity", last, f"{name}_heads"))
        nodes.append(node("Transpose", "k_heads", "k_turned", perm=[0, 1, 3, 2]))
        nodes.append(node("MatMul", "q_heads k_turned", "s"))
        nodes.append(node("Mul", "s scale", "scaled"))
        nodes += self._masked(weights)
        nodes.append(node("Softmax", "masked", "p", axis=-1))
        nodes.append(node("MatMul", "p v_heads", "o"))
        if self.joined:
            weights["joined"] = np.asarray([self.batch, self.rows, self.heads * self.columns])
            nodes.append(node("Transpose", "o", "o1", perm=[0, 2, 1, 3]))
            nodes.append(node("Reshape", "o1 joined", "y"))
        else:
            nodes.append(node("Identity", "o", "y"))
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in self.feeds().items()
        ]
        outputs = [helper.make_tensor_value_info("y", kind, None)]
        constants = [numpy_helper.from_array(x, n) for n, x in weights.items()]
        graph = helper.make_graph(nodes, "heads", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def _masked(self, weights: dict[str, Array]) -> list[onnx.NodeProto]:
        if self.mask == "":
            return [node("Identity", "scaled", "masked")]
        if self.mask == "added":
            return [node("Add", "scaled m", "masked")]
        low = np.asarray(-np.inf).astype(weights["scale"].dtype)
        if self.mask == "causal added":
            weights["low"] = np.full((self.rows, self.keys), low)
            weights["first"] = np.asarray(1)
            return [node("Trilu", "low first", "triangle", upper=1), node("Add", "scaled triangle", "masked")]
        weights["low"] = low
        if self.mask == "where":
            return [node("Where", "m scaled low", "masked")]
        weights["ones"] = np.ones((self.rows, self.keys), np.bool_)
        return [node("Trilu", "ones", "triangle", upper=0), node("Where", "triangle scaled low", "masked")]

    def reference(self, feeds: Mapping[str, Array]) -> Array:
        """The output in float64, from inputs as they are."""
        q, k, v = (np.asarray(feeds[x], np.float64) for x in "qkv")
        if self.joined:
            q, k, v = (
                x.reshape(*x.shape[:2], n, -1).transpose(0, 2, 1, 3)
                for x, n in ((q, self.heads), (k, self.heads // self.sharing), (v, self.heads // self.sharing))
            )
        k, v = np.repeat(k, self.sharing, 1), np.repeat(v, self.sharing, 1)
        scores = q @ k.swapaxes(2, 3) * self.scale
        if self.mask == "added":
            scores = scores + np.asarray(feeds["m"], np.float64)
        elif self.mask:
            keep = feeds["m"] if self.mask == "where" else np.tri(self.rows, self.keys, dtype=np.bool_)
            scores = np.where(keep, scores, -np.inf)
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - scores.max(-1, keepdims=True))
        found: Array = powers / powers.sum(-1, keepdims=True) @ v
        return found.transpose(0, 2, 1, 3).reshape(self.batch, self.rows, -1) if self.joined else found
