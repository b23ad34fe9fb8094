"""The corpus against which recipes are checked: small models of one kernel or a few, every kind of operator, with
awkward sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from tilewright.testing.cases import Case, case, node, steps

_SOFTMAX_SHAPES = ((5, 13), (3, 4, 33), (2, 3, 5, 7), (70, 1), (9, 64))
"""Several rows, several outer axes, and rows that no vector's width divides (and one that all do)."""


def corpus(dtype: str = "float32") -> tuple[Case, ...]:
    """All cases, with float tensors of `dtype` ("float32" or "float16"), from a fixed seed."""
    writer = _Writer(dtype)
    for family in (
        _matrix_products,
        _thin_products,
        _convolutions,
        _reductions,
        _pools,
        _softmax,
        _normalisations,
        _rows,
        _residuals,
        _elementwise,
        _movements,
        _scatters,
        _scans,
        _selections,
        _chains,
        _convolution_chains,
    ):
        family(writer)
    return tuple(writer.cases)


def _ints(*values: int) -> Any:
    return np.asarray(values, np.int64)


class _Writer:
    """Collects cases and draws their tensors."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.rng = np.random.default_rng(20)
        self.cases: list[Case] = []

    def rand(self, *shape: int) -> Any:
        """Standard normal."""
        return self.rng.standard_normal(shape).astype(self.dtype)

    def positive(self, *shape: int) -> Any:
        """Between 0.5 and 1.5: scales and variances."""
        return (self.rng.random(shape) + 0.5).astype(self.dtype)

    def scalar(self, value: float) -> Any:
        return np.asarray(value, self.dtype)

    def add(self, name: str, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Any], **rest: Any) -> None:
        self.cases.append(case(f"{name} {self.dtype}", nodes, inputs, **rest))


def _matrix_products(w: _Writer) -> None:
    sizes = ((64, 64, 64), (1, 70, 130), (37, 19, 53), (128, 257, 96), (7, 1, 5), (3, 65, 1000))
    for m, k, n in sizes:
        w.add(f"matmul {m}x{k}x{n}", steps("y = MatMul x w"), {"x": w.rand(m, k)}, weights={"w": w.rand(k, n)})
    w.add("matmul of two inputs", steps("y = MatMul a b"), {"a": w.rand(33, 40), "b": w.rand(40, 50)})
    w.add("batched matmul", steps("y = MatMul a b"), {"a": w.rand(3, 17, 20), "b": w.rand(3, 20, 18)})
    w.add("broadcast matmul", steps("y = MatMul a b"), {"a": w.rand(2, 3, 9, 8), "b": w.rand(3, 8, 11)})
    w.add("matvec", steps("y = MatMul a b"), {"a": w.rand(40, 60), "b": w.rand(60)})
    w.add("vecmat", steps("y = MatMul a b"), {"a": w.rand(45), "b": w.rand(45, 37)})
    w.add("outer product", steps("y = MatMul a b"), {"a": w.rand(21, 1), "b": w.rand(1, 35)})
    w.add(
        "gemm transposed with bias and relu",
        [node("Gemm", "x w b", "g", transA=1, transB=1, alpha=0.5), node("Relu", "g", "y")],
        {"x": w.rand(24, 18)},
        weights={"w": w.rand(30, 24), "b": w.rand(30)},
    )
    for rows in (1, 5):
        w.add(
            f"classifier of {rows}",
            [node("Gemm", "x w b", "y", transB=1)],
            {"x": w.rand(rows, 67)},
            weights={"w": w.rand(1000, 67), "b": w.rand(1000)},
        )
    w.add(
        "transposed left operand",
        [node("Transpose", "a", "t", perm=[1, 0]), node("MatMul", "t w", "y")],
        {"a": w.rand(29, 43)},
        weights={"w": w.rand(29, 31)},
    )
    w.add(
        "attention scores",
        [
            node("Transpose", "k", "t", perm=[0, 2, 3, 1]),
            node("Transpose", "q", "s", perm=[0, 2, 1, 3]),
            *steps("m = MatMul s t; y = Mul m c"),
        ],
        {"q": w.rand(2, 11, 3, 16), "k": w.rand(2, 13, 3, 16)},
        weights={"c": w.scalar(0.25)},
    )
    w.add(
        "bias, gelu and residual",
        steps("m = MatMul x w; a = Add m b; d = Div a r; e = Erf d; p = Add e one; q = Mul a p; g = Mul q half")
        + steps("y = Add g s"),
        {"x": w.rand(2, 9, 24), "s": w.rand(2, 9, 38)},
        weights={"w": w.rand(24, 38), "b": w.rand(38), "r": w.scalar(2**0.5)}
        | {"one": w.scalar(1.0), "half": w.scalar(0.5)},
    )


def _thin_products(w: _Writer) -> None:
    """Few rows, and a reduction long enough to be shared out, in whole pieces of eight or not."""
    for m, k, n in ((1, 512, 70), (5, 264, 96), (16, 1040, 33), (40, 96, 130), (9, 300, 48)):
        nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Relu", "a", "y")]
        weights = {"w": w.rand(k, n) / w.scalar(k**0.5), "b": w.rand(n)}
        w.add(f"thin matmul {m}x{k}x{n}", nodes, {"x": w.rand(m, k)}, weights=weights)
    w.add(
        "thin product of two inputs",
        [node("Gemm", "x w", "y", transB=1)],
        {"x": w.rand(3, 328), "w": w.rand(50, 328) / w.scalar(328**0.5)},
    )
    w.add(
        "wide by thin",
        [node("Gemm", "w x", "y", transB=1)],
        {"x": w.rand(11, 136)},
        weights={"w": w.rand(75, 136) / w.scalar(136**0.5)},
    )
    w.add(
        "scores of one token",
        [node("Transpose", "k", "t", perm=[0, 1, 3, 2]), node("MatMul", "q t", "y")],
        {"q": w.rand(2, 3, 1, 64), "k": w.rand(2, 3, 37, 64) / w.scalar(8.0)},
    )


def _convolutions(w: _Writer) -> None:
    same = {"pads": [1, 1, 1, 1]}
    for name, shape, filters, attributes in (
        ("3x3", (1, 8, 14, 14), (20, 8, 3, 3), same),
        ("3x3 stride 2", (2, 5, 15, 13), (9, 5, 3, 3), {**same, "strides": [2, 2]}),
        ("1x1", (1, 32, 9, 9), (48, 32, 1, 1), {}),
        ("1x1 stride 2", (2, 12, 9, 11), (19, 12, 1, 1), {"strides": [2, 2]}),
        ("1x1 of one pixel", (1, 40, 1, 1), (1000, 40, 1, 1), {}),
        ("7x7 stem", (1, 3, 30, 30), (16, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
        ("uneven pads", (1, 5, 9, 10), (7, 5, 3, 2), {"pads": [0, 1, 2, 0], "strides": [1, 3]}),
        ("dilated", (1, 4, 12, 12), (6, 4, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ("grouped", (1, 12, 10, 10), (18, 4, 3, 3), {"group": 3, **same}),
        (
            "grouped dilated stride 2",
            (2, 6, 13, 12),
            (10, 3, 3, 3),
            {"group": 2, "dilations": [2, 1], "strides": [2, 2], "pads": [2, 1, 2, 1]},
        ),
        ("depthwise", (1, 24, 11, 11), (24, 1, 3, 3), {"group": 24, **same}),
        ("depthwise stride 2", (2, 7, 14, 13), (7, 1, 5, 5), {"group": 7, "strides": [2, 2], "pads": [2, 2, 2, 2]}),
        ("depthwise dilated", (1, 9, 12, 15), (9, 1, 3, 3), {"group": 9, "dilations": [3, 2], "pads": [3, 2, 3, 2]}),
        ("depthwise twice as many", (1, 5, 8, 9), (10, 1, 3, 3), {"group": 5, **same}),
        ("1d", (2, 6, 50), (10, 6, 5), {"pads": [2, 2]}),
        ("3d", (1, 3, 5, 6, 7), (4, 3, 2, 3, 3), {"pads": [0, 1, 1, 1, 1, 1]}),
    ):
        w.add(
            f"conv {name}",
            [node("Conv", "x w b", "c", **attributes), node("Relu", "c", "y")],
            {"x": w.rand(*shape)},
            weights={"w": w.rand(*filters), "b": w.rand(filters[0])},
        )
    statistics = {"s": w.positive(13), "o": w.rand(13), "m": w.rand(13), "v": w.positive(13)}
    w.add(
        "conv, batch normalisation and relu",
        [node("Conv", "x w", "c", **same), node("BatchNormalization", "c s o m v", "n"), node("Relu", "n", "y")],
        {"x": w.rand(2, 6, 9, 11)},
        weights={"w": w.rand(13, 6, 3, 3), **statistics},
    )
    w.add(
        "conv transpose",
        [node("ConvTranspose", "x w b", "y", strides=[2, 2], pads=[1, 0, 1, 1])],
        {"x": w.rand(1, 5, 6, 7)},
        weights={"w": w.rand(5, 4, 3, 3), "b": w.rand(4)},
    )


def _reductions(w: _Writer) -> None:
    for name, kind, shape, axes in (
        ("row sum", "ReduceSum", (33, 130), (1,)),
        ("row maximum of three axes", "ReduceMax", (4, 5, 19), (2,)),
        ("column mean", "ReduceMean", (70, 45), (0,)),
        ("sum over the outermost of three", "ReduceSum", (21, 5, 13), (0,)),
        ("maximum over the outermost, narrow", "ReduceMax", (50, 3), (0,)),
        ("sum of all but the middle", "ReduceSum", (6, 11, 9), (0, 2)),
        ("middle product", "ReduceProd", (5, 7, 6), (1,)),
        ("middle norm", "ReduceL2", (3, 25, 17), (1,)),
        ("sum of one element each", "ReduceSum", (13, 1), (1,)),
    ):
        w.add(name, [node(kind, "x a", "y")], {"x": w.rand(*shape)}, weights={"a": _ints(*axes)})
    w.add("full maximum", steps("y = ReduceMax x"), {"x": w.rand(9, 10, 11)})
    w.add("argmax", [node("ArgMax", "x", "y", axis=1)], {"x": w.rand(13, 29)})
    w.add("argmin over the outermost axis", [node("ArgMin", "x", "y", axis=0, keepdims=0)], {"x": w.rand(23, 14)})
    w.add("running sum", steps("y = CumSum x a"), {"x": w.rand(5, 21)}, weights={"a": np.int64(1)})


def _pools(w: _Writer) -> None:
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    w.add("max pool", [node("MaxPool", "x", "y", **window)], {"x": w.rand(1, 6, 15, 17)})
    for counted in (0, 1):
        w.add(
            f"average pool, padding {'counts' if counted else 'does not count'}",
            [node("AveragePool", "x", "y", count_include_pad=counted, **window)],
            {"x": w.rand(2, 5, 11, 14)},
        )
    w.add(
        "average pool with uneven pads",
        [node("AveragePool", "x", "y", kernel_shape=[2, 3], pads=[0, 1, 1, 0])],
        {"x": w.rand(1, 4, 7, 9)},
    )
    w.add("global average pool", steps("y = GlobalAveragePool x"), {"x": w.rand(2, 10, 7, 7)})


def _softmax(w: _Writer) -> None:
    """As one operator and as the kernels it consists of: what each row shares is read along the inner axis."""
    for shape in _SOFTMAX_SHAPES:
        size = "x".join(map(str, shape))
        last = _ints(len(shape) - 1)
        w.add(f"softmax {size}", [node("Softmax", "x", "y", axis=-1)], {"x": w.rand(*shape)})
        w.add(f"row maximum {size}", steps("y = ReduceMax x a"), {"x": w.rand(*shape)}, weights={"a": last})
        w.add(
            f"exp less row maximum {size}",
            steps("d = Sub x m; y = Exp d"),
            {"x": w.rand(*shape), "m": w.rand(*shape[:-1], 1)},
        )
        w.add(
            f"row sum of exp less row maximum {size}",
            steps("d = Sub x m; e = Exp d; y = ReduceSum e a"),
            {"x": w.rand(*shape), "m": w.rand(*shape[:-1], 1)},
            weights={"a": last},
        )
        w.add(
            f"divided by row {size}",
            steps("y = Div x s"),
            {"x": w.rand(*shape), "s": w.positive(*shape[:-1], 1)},
        )
    w.add("softmax over the outermost axis", [node("Softmax", "x", "y", axis=0)], {"x": w.rand(17, 11)})
    w.add("softmax over a middle axis", [node("Softmax", "x", "y", axis=1)], {"x": w.rand(3, 14, 9)})
    w.add("log softmax", [node("LogSoftmax", "x", "y", axis=-1)], {"x": w.rand(6, 37)})
    w.add(
        "softmax whose steps are all outputs",
        steps("m = ReduceMax x a; d = Sub x m; e = Exp d; s = ReduceSum e a; y = Div e s"),
        {"x": w.rand(4, 3, 21)},
        weights={"a": _ints(2)},
        outputs=("m", "e", "s", "y"),
    )
    w.add(
        "masked attention",
        steps("s = MatMul q k; t = Add s mask; p = Softmax t; y = MatMul p v"),
        {"q": w.rand(2, 3, 11, 8), "k": w.rand(2, 3, 8, 13), "v": w.rand(2, 3, 13, 8), "mask": w.rand(2, 1, 1, 13)},
    )


def _normalisations(w: _Writer) -> None:
    for shape in ((7, 50), (3, 5, 33)):
        w.add(
            f"layer normalisation {'x'.join(map(str, shape))}",
            [node("LayerNormalization", "x s b", "y", axis=-1)],
            {"x": w.rand(*shape)},
            weights={"s": w.positive(shape[-1]), "b": w.rand(shape[-1])},
        )
    w.add(
        "layer normalisation by steps",
        steps("m = ReduceMean x a; d = Sub x m; q = Mul d d; v = ReduceMean q a; p = Add v e; r = Sqrt p")
        + steps("n = Div d r; t = Mul n s; y = Add t b"),
        {"x": w.rand(5, 4, 27)},
        weights={"a": _ints(2), "e": w.scalar(1e-3), "s": w.positive(27), "b": w.rand(27)},
    )
    w.add(
        "instance normalisation",
        steps("y = InstanceNormalization x s b"),
        {"x": w.rand(2, 5, 6, 7)},
        weights={"s": w.positive(5), "b": w.rand(5)},
    )
    w.add(
        "batch normalisation of inputs",
        steps("y = BatchNormalization x s o m v"),
        {"x": w.rand(2, 7, 5, 9), "s": w.positive(7), "o": w.rand(7), "m": w.rand(7), "v": w.positive(7)},
    )
    # As many images as channels: onnx's reference evaluator (1.23) counts the channels by the images.
    w.add("local response", [node("LRN", "x", "y", size=3, alpha=0.1)], {"x": w.rand(5, 5, 3, 7)})


def _rows(w: _Writer) -> None:
    """Several kernels that share rows: more outputs than one, long rows and single ones, sizes that nothing divides."""
    for shape in ((3, 1500), (1, 61), (1, 1), (2, 5, 17)):
        w.add(f"softmax of {shape}", [node("Softmax", "x", "y", axis=-1)], {"x": w.rand(*shape)})
    w.add("log softmax over a middle axis", [node("LogSoftmax", "x", "y", axis=1)], {"x": w.rand(2, 11, 13)})
    w.add("softmax of few over many", [node("Softmax", "x", "y", axis=1)], {"x": w.rand(1, 3, 67)})
    w.add(
        "scaled and masked softmax",
        steps("s = Mul x c; t = Add s m; y = Softmax t"),
        {"x": w.rand(2, 3, 7, 19), "m": w.rand(2, 1, 1, 19)},
        weights={"c": w.scalar(0.125)},
    )
    for shape in ((5, 43), (2, 3, 7), (11, 1)):
        last = w.positive(shape[-1])
        w.add(
            f"layer normalisation with statistics of {shape}",
            [node("LayerNormalization", "x s b", "y m d", axis=-1)],
            {"x": w.rand(*shape)},
            weights={"s": last, "b": w.rand(shape[-1])},
            outputs=("y", "m", "d"),
        )
    w.add(
        "layer normalisation of two axes",
        [node("LayerNormalization", "x s b", "y", axis=1)],
        {"x": w.rand(3, 5, 14)},
        weights={"s": w.positive(5, 14), "b": w.rand(5, 14)},
    )
    w.add(
        "residual and layer normalisation, both kept",
        [node("Add", "x r", "t"), node("LayerNormalization", "t s b", "y", axis=-1)],
        {"x": w.rand(2, 9, 29), "r": w.rand(2, 9, 29)},
        weights={"s": w.positive(29), "b": w.rand(29)},
        outputs=("t", "y"),
    )
    w.add(
        "root mean square normalisation",
        [node("RMSNormalization", "x s", "y", axis=-1)],
        {"x": w.rand(4, 3, 37)},
        weights={"s": w.positive(37)},
        opset=23,
    )
    for image, groups in (((2, 6, 5, 7), 3), ((1, 10, 1, 13), 1)):
        w.add(
            f"group normalisation {groups} of {image}",
            [node("GroupNormalization", "x s b", "y", num_groups=groups)],
            {"x": w.rand(*image)},
            weights={"s": w.positive(image[1]), "b": w.rand(image[1])},
            opset=21,
            like="x",
        )
    w.add(
        "instance normalisation of an odd image",
        steps("y = InstanceNormalization x s b"),
        {"x": w.rand(3, 2, 11, 3)},
        weights={"s": w.positive(2), "b": w.rand(2)},
    )
    for axis in (1, 2):
        w.add(
            f"unit length along {axis}",
            [node("LpNormalization", "x", "y", axis=axis, p=2)],
            {"x": w.rand(3, 13, 31)},
        )
    for axis in (1, 2):
        w.add(
            f"less the mean along {axis}",
            steps("m = ReduceMean x a; y = Sub x m"),
            {"x": w.rand(5, 23, 10)},
            weights={"a": _ints(axis)},
            outputs=("m", "y"),
        )
    w.add(
        "softmax of what is transposed, transposed back",
        [
            node("Transpose", "x", "t", perm=[0, 2, 1]),
            node("Softmax", "t", "s"),
            node("Transpose", "s", "y", perm=[0, 2, 1]),
        ],
        {"x": w.rand(2, 13, 6)},
    )
    w.add(
        "softmax of a padded middle",
        [node("Pad", "x p", "t"), node("Softmax", "t", "y", axis=1)],
        {"x": w.rand(3, 6, 11)},
        weights={"p": _ints(0, 2, 0, 0, 1, 0)},
    )
    w.add(
        "distance from the largest, found by its position",
        [node("ArgMax", "x", "i", axis=1), node("GatherElements", "x i", "m", axis=1), *steps("y = Sub x m")],
        {"x": w.rand(9, 21)},
        outputs=("i", "y"),
    )
    w.add(
        "whether all of a row are alike",
        [
            *steps("p = Less x o"),
            node("Cast", "p", "i", to=7),
            *steps("m = ReduceMax i a; l = ReduceMin i a; s = Equal m l; y = And p s"),
        ],
        {"x": w.rand(40, 3), "o": w.rand(1, 3)},
        weights={"a": _ints(1)},
    )


def _residuals(w: _Writer) -> None:
    w.add(
        "conv, residual and relu",
        [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Add", "c s", "r"), node("Relu", "r", "y")],
        {"x": w.rand(1, 7, 9, 10), "s": w.rand(1, 7, 9, 10)},
        weights={"w": w.rand(7, 7, 3, 3), "b": w.rand(7)},
    )
    w.add(
        "residual of the input itself",
        [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("Add", "r x", "y")],
        {"x": w.rand(2, 5, 7, 6)},
        weights={"w": w.rand(5, 5, 3, 3)},
    )
    w.add(
        "two branches added, both kept",
        steps("c = Conv x v; d = Conv x w; r = Relu d; y = Add c r"),
        {"x": w.rand(1, 6, 8, 9)},
        weights={"v": w.rand(11, 6, 1, 1), "w": w.rand(11, 6, 1, 1)},
        outputs=("c", "r", "y"),
    )
    w.add(
        "residual with a broadcast column",
        steps("m = MatMul x w; y = Add m s"),
        {"x": w.rand(14, 20), "s": w.rand(14, 1)},
        weights={"w": w.rand(20, 27)},
    )


def _convolution_chains(w: _Writer) -> None:
    """What is stored between convolutions has no given order, so channels can lie innermost there."""
    same = {"pads": [1, 1, 1, 1]}
    w.add(
        "convs after a conv, one by one and in a window of stride 2",
        [
            node("Conv", "x u", "c", **same),
            node("Relu", "c", "r"),
            node("Conv", "r v", "d", **same, strides=[2, 2]),
            node("Relu", "d", "e"),
            node("Conv", "e w", "y"),
        ],
        {"x": w.rand(1, 3, 13, 11)},
        weights={"u": w.rand(16, 3, 3, 3), "v": w.rand(64, 16, 3, 3), "w": w.rand(40, 64, 1, 1)},
    )
    w.add(
        "pointwise, depthwise and pointwise conv with a residual",
        [
            node("Conv", "x u b", "c"),
            node("Relu", "c", "r"),
            node("Conv", "r v", "d", group=48, **same),
            node("Relu", "d", "e"),
            node("Conv", "e w", "f"),
            node("Add", "f x", "y"),
        ],
        {"x": w.rand(1, 16, 9, 7)},
        weights={"u": w.rand(48, 16, 1, 1), "b": w.rand(48), "v": w.rand(48, 1, 3, 3), "w": w.rand(16, 48, 1, 1)},
    )
    w.add(
        "grouped conv and pool between convs, joined",
        [
            node("Conv", "x u", "c"),
            node("Conv", "c v", "d", group=2, **same),
            node("MaxPool", "c", "m", kernel_shape=[3, 3], **same),
            node("Concat", "d m", "j", axis=1),
            node("Conv", "j w", "y", **same),
        ],
        {"x": w.rand(2, 5, 6, 7)},
        weights={"u": w.rand(16, 5, 1, 1), "v": w.rand(32, 8, 3, 3), "w": w.rand(8, 48, 3, 3)},
    )


def _elementwise(w: _Writer) -> None:
    w.add(
        "element-wise chain",
        steps("s = Add a b; t = Tanh s; y = Mul t c"),
        {"a": w.rand(4, 33, 7), "b": w.rand(33, 1), "c": w.rand(7)},
    )
    w.add("broadcast both ways", steps("y = Mul a b"), {"a": w.rand(6, 1, 9), "b": w.rand(5, 1)})
    w.add("erf", steps("y = Erf x"), {"x": w.rand(1003)})
    w.add("where", steps("y = Where c a b"), {"c": w.rng.random((6, 40)) < 0.5, "a": w.rand(6, 40), "b": w.rand(40)})
    w.add("scalar", steps("y = Neg x"), {"x": w.rand()})


def _movements(w: _Writer) -> None:
    w.add("transpose", [node("Transpose", "x", "y", perm=[2, 0, 1])], {"x": w.rand(9, 14, 33)})
    w.add("pad", steps("y = Pad x p"), {"x": w.rand(5, 9)}, weights={"p": _ints(1, 2, 0, 3)})
    parts = {"a": w.rand(3, 5, 8), "b": w.rand(3, 1, 8), "c": w.rand(3, 9, 8)}
    w.add("concat", [node("Concat", "a b c", "y", axis=1)], parts)
    w.add("concat of the innermost axis", [node("Concat", "a b", "y", axis=1)], {"a": w.rand(6, 5), "b": w.rand(6, 14)})
    w.add(
        "concat of what kernels computed",
        [
            *steps("c = Conv x v; r = Relu c"),
            node("Conv", "x w", "d", pads=[1, 1, 1, 1]),
            node("MaxPool", "x", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Concat", "r d p", "y", axis=1),
        ],
        {"x": w.rand(2, 4, 7, 9)},
        weights={"v": w.rand(5, 4, 1, 1), "w": w.rand(3, 4, 3, 3)},
    )
    w.add(
        "shuffle of channels",
        [node("Reshape", "x s", "r"), node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]), node("Reshape", "t u", "y")],
        {"x": w.rand(1, 12, 5, 6)},
        weights={"s": _ints(1, 3, 4, 5, 6), "u": _ints(1, 12, 5, 6)},
    )
    w.add(
        "product of slices",
        steps("l = Slice x b m a; h = Slice x m e a; g = Sigmoid h; y = Mul l g"),
        {"x": w.rand(5, 38)},
        weights={"b": _ints(0), "m": _ints(19), "e": _ints(38), "a": _ints(1)},
    )
    w.add(
        "every other, backwards",
        steps("y = Slice x b e a s"),
        {"x": w.rand(4, 23)},
        weights={"b": _ints(22), "e": _ints(-24), "a": _ints(1), "s": _ints(-2)},
    )
    nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    w.add(
        "nearest neighbour",
        [node("Resize", "x - f", "y", **nearest)],
        {"x": w.rand(1, 3, 5, 7)},
        weights={"f": np.asarray([1, 1, 2, 2], np.float32)},
    )
    w.add("gather", [node("Gather", "x i", "y", axis=1)], {"x": w.rand(6, 20), "i": w.rng.integers(0, 20, (4, 3))})


def _scatters(w: _Writer) -> None:
    """Updates that meet in one element and negative indices; plain replacements, whose order is open, do not meet."""
    for how in ("add", "mul", "max", "min"):
        feeds = {"x": w.rand(8, 21), "i": w.rng.integers(-8, 8, (11, 21)), "u": w.rand(11, 21)}
        w.add(f"scatter {how}", [node("ScatterElements", "x i u", "y", axis=0, reduction=how)], feeds)
        feeds = {"x": w.rand(6, 5, 37), "i": w.rng.integers(0, 5, (9, 2)), "u": w.rand(9, 37)}
        w.add(f"scatter rows {how}", [node("ScatterND", "x i u", "y", reduction=how)], feeds)
    for axis, shape in ((1, (7, 40)), (0, (40,)), (2, (3, 4, 19)), (1, (2, 33, 5))):
        indices = np.argsort(w.rng.random(shape), axis).take(range(shape[axis] // 2), axis)
        feeds = {"x": w.rand(*shape), "i": indices, "u": w.rand(*indices.shape)}
        w.add(f"replace along {axis} of {len(shape)}", [node("ScatterElements", "x i u", "y", axis=axis)], feeds)
    rows = w.rng.permutation(30)[:17].reshape(17, 1)
    w.add("replace rows", [node("ScatterND", "x i u", "y")], {"x": w.rand(30, 33), "i": rows, "u": w.rand(17, 33)})
    w.add("replace elements", [node("ScatterND", "x i u", "y")], {"x": w.rand(30), "i": rows, "u": w.rand(17)})


def _scans(w: _Writer) -> None:
    for shape, axis in (((50,), 0), ((33, 40), 0), ((33, 40), 1), ((5, 6, 19), 1), ((2, 3, 4, 9), 3), ((1, 70), 0)):
        for flags in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
            name = f"cumsum {axis} of {shape} {' '.join(flags)}".strip()
            w.add(name, [node("CumSum", "x a", "y", **flags)], {"x": w.rand(*shape)}, weights={"a": np.asarray(axis)})


def _selections(w: _Writer) -> None:
    """Elements that differ, so that there is one answer."""
    for shape, axis, count in (
        ((9, 40), 1, 1),
        ((9, 40), 1, 5),
        ((7, 40), 1, 40),
        ((2, 3, 33), 2, 16),
        ((6, 1), 1, 1),
        ((3, 300), 1, 10),
        ((205, 2), 0, 70),
    ):
        for largest in (0, 1):
            x = (w.rng.permutation(int(np.prod(shape))).reshape(shape) - 50).astype(w.dtype)
            w.add(
                f"top {count} {'largest' if largest else 'smallest'} along {axis} of {shape}",
                [node("TopK", "x k", "v i", axis=axis, largest=largest)],
                {"x": x},
                weights={"k": _ints(count)},
                outputs=("v", "i"),
            )


def _chains(w: _Writer) -> None:
    """Products of products, with what stands between them."""
    layer = "p{0} = MatMul {1} w{0}; q{0} = Add p{0} b{0}; "
    for rows, sizes in (((37,), (20, 45, 33, 3)), ((2, 35), (64, 64, 72)), ((130,), (16, 200, 96))):
        weights = {f"w{i}": w.rand(*x) for i, x in enumerate(itertools.pairwise(sizes))}
        weights |= {f"b{i}": w.rand(x) for i, x in enumerate(sizes[1:])}
        last = len(sizes) - 2
        text = "".join(layer.format(i, f"r{i - 1}" if i else "x") + f"r{i} = Relu q{i}; " for i in range(last))
        text += f"p{last} = MatMul r{last - 1} w{last}; y = Add p{last} b{last}"
        w.add(f"layers {sizes} of {rows}", steps(text), {"x": w.rand(*rows, sizes[0])}, weights=weights)
    w.add(
        "layers and a residual, one result inside",
        steps("h = MatMul x v; s = Tanh h; p = MatMul s u; y = Add p x"),
        {"x": w.rand(3, 19, 40)},
        weights={"v": w.rand(40, 24), "u": w.rand(24, 40)},
        outputs=("s", "y"),
    )
    nodes = [node("Gemm", "x v", "h", transB=1), *steps("s = Sigmoid h"), node("Gemm", "s u", "y", transB=1, alpha=0.5)]
    w.add("transposed layers", nodes, {"x": w.rand(70, 64)}, weights={"v": w.rand(128, 64), "u": w.rand(24, 128)})
    w.add(
        "pointwise convolutions",
        [*steps("s = Conv x v; t = Relu s"), *steps("y = Conv t u")],
        {"x": w.rand(2, 24, 5, 9)},
        weights={"v": w.rand(40, 24, 1, 1), "u": w.rand(10, 40, 1, 1)},
    )
