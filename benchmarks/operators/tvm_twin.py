"""The cells as one would write them in TVM's TE with topi; not a conversion of the ONNX model."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, topi

from benchmarks.operators.cells import Arrays, Cell

_WIDE = "float32"
"""What sums are kept in."""


def twin(cell: Cell) -> Any:
    """The operator as a function of the tile IR: inputs and weights as `arguments` lays them out, then the result.

    Padding is part of the operator, also where it is uneven. Products of float16 are summed in float32.
    """
    shapes = {**cell.inputs(), **cell.weights()}
    if cell.kind == "matmul":
        shapes["w"] = shapes["w"][::-1]
    tensors = [te.placeholder(shape, name=name, dtype=cell.dtype) for name, shape in shapes.items()]
    result = _cast(_result(cell, *tensors), cell.dtype)
    # Weights stay as they are laid out: what rewrites them in the measured program would run at each inference.
    return te.create_prim_func([*tensors, result]).without_attr("layout_free_buffers")


def arguments(cell: Cell, given: Arrays) -> list[np.ndarray]:
    """Inputs and weights as `twin` takes them: the constant matrix of a product by columns, as topi's dense does."""
    arrays = [given[name] for name in (*cell.inputs(), *cell.weights())]
    if cell.kind == "matmul":
        arrays[1] = np.ascontiguousarray(arrays[1].T)
    return arrays


def _cast(x: Any, dtype: str) -> Any:
    return x if x.dtype == dtype else topi.cast(x, dtype)


def _result(cell: Cell, x: Any, w: Any = None) -> Any:
    padding = [*[cell.pads[0]] * 2, *[cell.pads[1]] * 2] if cell.get("k") and cell.get("h") else []
    match cell.kind:
        case "gemm":
            return topi.nn.matmul(x, w, out_dtype=_WIDE)
        case "matmul":
            return topi.nn.dense(x, w, out_dtype=_WIDE)
        case "conv":
            return topi.nn.conv2d(x, w, cell["s"], padding, 1, out_dtype=_WIDE)
        case "depthwise":
            return topi.nn.depthwise_conv2d_nchw(x, w, cell["s"], padding, 1, out_dtype=_WIDE)
        case "relu":
            return topi.nn.relu(x)
        case "avgpool":
            window, strides = [cell["k"]] * 2, [cell["s"]] * 2
            return topi.nn.pool2d(_cast(x, _WIDE), window, strides, [1, 1], padding, "avg", count_include_pad=False)
        case "mean":
            sizes = [int(n) for axis, n in enumerate(x.shape) if axis in cell.axes()]
            return topi.divide(topi.sum(_cast(x, _WIDE), axis=cell.axes()), float(np.prod(sizes)))
        case other:
            raise ValueError(f"cell {cell.name} is of the kind {other!r}, which is not written in TE")
