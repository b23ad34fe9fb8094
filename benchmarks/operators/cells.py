"""The cells: one operator of one shape each, as an ONNX model, arrays from a seed, and a sample of the right result."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FILE = Path(__file__).with_name("cells.csv")
SUITES = ("paper", "batch1", "gemm", "llm")
CHECKED = 512
"""Elements of the result that are compared with float64."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Cell:
    """One operator.

    Attributes:
        suite: where it comes from, one of `SUITES`.
        kind: conv, depthwise, relu, avgpool, mean, matmul (by a constant matrix) or gemm (of two inputs).
        dtype: of inputs and result.
        shape: sizes by name. Images are square: n images, c channels, h rows, f filters, windows of k at stride s.
    """

    suite: str
    kind: str
    dtype: str
    shape: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Unique, and fit for a file's name."""
        sizes = "-".join(f"{key}{size}" for key, size in self.shape)
        return f"{self.suite}.{self.kind}.{sizes}.{self.dtype}"

    def __getitem__(self, key: str) -> int:
        return int(dict(self.shape)[key])

    def get(self, key: str) -> int:
        """A size, 0 where the shape does not have it."""
        return int(dict(self.shape).get(key, 0))

    @property
    def pads(self) -> tuple[int, int]:
        """Rows of padding before and after an image; "same" puts the odd one at the end, as TensorFlow does."""
        if dict(self.shape).get("pad") != "same":
            return 0, 0
        h, k, s = self["h"], self["k"], self["s"]
        total = max((math.ceil(h / s) - 1) * s + k - h, 0)
        return total // 2, total - total // 2

    @property
    def rows_out(self) -> int:
        """Rows of the result's images."""
        return (self["h"] + sum(self.pads) - self["k"]) // self["s"] + 1

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs."""
        if self.kind == "gemm":
            return {"x": (self["m"], self["k"]), "w": (self["k"], self["n"])}
        if self.kind == "matmul":
            return {"x": (self["m"], self["k"])}
        if self.kind == "mean" and self.get("rows"):
            leading = (self["n"],) if self.get("n") else ()
            return {"x": (*leading, self["rows"], self["columns"])}
        return {"x": (self["n"], self["c"], self["h"], self["h"])}

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the constants."""
        match self.kind:
            case "matmul":
                return {"w": (self["k"], self["n"])}
            case "conv":
                return {"w": (self["f"], self["c"], self["k"], self["k"])}
            case "depthwise":
                return {"w": (self["c"], 1, self["k"], self["k"])}
            case _:
                return {}

    def axes(self) -> tuple[int, ...]:
        """The axes of a mean."""
        return (len(self.inputs()["x"]) - 1,) if self.get("rows") else (2, 3)


def cells(file: Path = FILE) -> list[Cell]:
    """Every cell of a table with the columns suite, kind, dtype, shape."""
    with file.open(newline="") as lines:
        return [
            Cell(row["suite"], row["kind"], row["dtype"], tuple(_pair(x) for x in row["shape"].split()))
            for row in csv.DictReader(lines)
        ]


def _pair(text: str) -> tuple[str, str]:
    key, _, size = text.partition("=")
    return key, size


def arrays(cell: Cell, seed: int = 0) -> Arrays:
    """Inputs and weights, scaled so that results are about one."""
    digest = hashlib.sha256(f"{cell.name} {seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    made: Arrays = {}
    for name, shape in {**cell.inputs(), **cell.weights()}.items():
        array = rng.standard_normal(shape, dtype=np.float32)
        if name == "w":
            array /= np.float32(math.sqrt(math.prod(shape[1:]) if len(shape) == 4 else shape[0]))
        made[name] = array.astype(cell.dtype)
    return made


def model(cell: Cell, weights: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """The operator; what has no array in `weights` is an input."""
    weights = weights or {}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(cell.dtype))
    shapes = {**cell.inputs(), **cell.weights()}
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    window: dict[str, Any] = {}
    if cell.kind in ("conv", "depthwise", "avgpool"):
        window = {"strides": [cell["s"]] * 2, "pads": [cell.pads[0]] * 2 + [cell.pads[1]] * 2}
    match cell.kind:
        case "gemm" | "matmul":
            node = helper.make_node("MatMul", ["x", "w"], ["y"])
        case "conv":
            node = helper.make_node("Conv", ["x", "w"], ["y"], **window)
        case "depthwise":
            node = helper.make_node("Conv", ["x", "w"], ["y"], group=cell["c"], **window)
        case "relu":
            node = helper.make_node("Relu", ["x"], ["y"])
        case "avgpool":
            node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[cell["k"]] * 2, **window)
        case "mean":
            node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
            constants.append(numpy_helper.from_array(np.asarray(cell.axes(), np.int64), "axes"))
        case other:
            raise ValueError(f"cell {cell.name} is of the kind {other!r}, which has no model")
    inputs = [helper.make_tensor_value_info(k, kind, s) for k, s in shapes.items() if k not in weights]
    graph = helper.make_graph([node], cell.kind, inputs, [onnx.ValueInfoProto(name="y")], constants)
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, result_shape(cell)))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def result_shape(cell: Cell) -> tuple[int, ...]:
    """Shape of the result."""
    match cell.kind:
        case "gemm" | "matmul":
            return cell["m"], cell["n"]
        case "conv":
            return cell["n"], cell["f"], cell.rows_out, cell.rows_out
        case "depthwise" | "avgpool":
            return cell["n"], cell["c"], cell.rows_out, cell.rows_out
        case "mean":
            source = cell.inputs()["x"]
            return tuple(n for axis, n in enumerate(source) if axis not in cell.axes())
        case _:
            return cell.inputs()["x"]


def sample(cell: Cell, given: Arrays, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random places in the flattened result, and what stands there in float64. All of a large one takes too long."""
    shape = result_shape(cell)
    rng = np.random.default_rng(seed)
    places = np.unique(rng.integers(0, math.prod(shape), CHECKED))
    points = zip(*np.unravel_index(places, shape), strict=True)
    return places, np.asarray([_RESULTS[cell.kind](cell, given, *map(int, p)) for p in points])


def work(cell: Cell) -> tuple[int, int]:
    """Arithmetic operations, and bytes of operands and result, each counted once."""
    outputs = math.prod(result_shape(cell))
    steps = {"conv": cell.get("c") * cell.get("k") ** 2, "depthwise": cell.get("k") ** 2, "avgpool": cell.get("k") ** 2}
    steps |= {"matmul": cell.get("k"), "gemm": cell.get("k")}
    flops = outputs * steps[cell.kind] * 2 if cell.kind in steps else math.prod(cell.inputs()["x"])
    elements = sum(math.prod(s) for s in (*cell.inputs().values(), *cell.weights().values())) + outputs
    return flops, elements * np.dtype(cell.dtype).itemsize


def _product_at(cell: Cell, given: Arrays, row: int, column: int) -> float:
    return float(given["x"][row].astype(np.float64) @ given["w"][:, column].astype(np.float64))


def _window(cell: Cell, image: np.ndarray, row: int, column: int) -> np.ndarray:
    """The part of (channels, rows, columns) that a window sees, zeros where it reaches outside."""
    k, s, before = cell["k"], cell["s"], cell.pads[0]
    top, left = row * s - before, column * s - before
    seen = np.zeros((*image.shape[:-2], k, k))
    rows, columns = (slice(max(x, 0), min(x + k, cell["h"])) for x in (top, left))
    there = (slice(x.start - first, x.stop - first) for x, first in ((rows, top), (columns, left)))
    seen[(..., *there)] = image[..., rows, columns]
    return seen


def _conv_at(cell: Cell, given: Arrays, n: int, f: int, row: int, column: int) -> float:
    return float((_window(cell, given["x"][n], row, column) * given["w"][f].astype(np.float64)).sum())


def _depthwise_at(cell: Cell, given: Arrays, n: int, c: int, row: int, column: int) -> float:
    return float((_window(cell, given["x"][n, c], row, column) * given["w"][c, 0].astype(np.float64)).sum())


def _avgpool_at(cell: Cell, given: Arrays, n: int, c: int, row: int, column: int) -> float:
    inside = _window(cell, np.ones((cell["h"], cell["h"])), row, column).sum()  # padding does not count
    return float(_window(cell, given["x"][n, c], row, column).sum() / inside)


def _mean_at(cell: Cell, given: Arrays, *point: int) -> float:
    return float(given["x"][point].mean(dtype=np.float64))


def _relu_at(cell: Cell, given: Arrays, *point: int) -> float:
    return max(float(given["x"][point]), 0.0)


_RESULTS: dict[str, Callable[..., float]] = {
    "gemm": _product_at,
    "matmul": _product_at,
    "conv": _conv_at,
    "depthwise": _depthwise_at,
    "avgpool": _avgpool_at,
    "mean": _mean_at,
    "relu": _relu_at,
}
