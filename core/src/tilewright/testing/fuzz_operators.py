"""What the fuzzer knows about operators: how to draw a node over given arrays."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@attrs.frozen
class Tensor:
    """A tensor in the graph.

    Args:
        data: what the reference says it holds.
        exact: whether every implementation must have exactly these bits: inputs, integers, moved or selected elements.
    """

    name: str
    data: Array
    exact: bool

    @property
    def rank(self) -> int:
        return self.data.ndim

    @property
    def is_float(self) -> bool:
        return self.data.dtype.kind == "f"


@attrs.frozen
class Draft:
    """A node before it has names.

    Args:
        inputs: tensors, or arrays that become initialisers; None leaves an optional input out.
        exact: whether the results are, given exact inputs.
    """

    kind: str
    inputs: Sequence[Tensor | Array | None]
    outputs: int = 1
    attributes: Mapping[str, Any] = attrs.field(factory=dict)
    exact: bool = False


class Draw:
    """Random choices over the tensors of a graph."""

    def __init__(self, seed: int, tensors: Sequence[Tensor]) -> None:
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.tensors = tensors

    def one(self, wanted: Callable[[Tensor], bool]) -> Tensor:
        """A tensor that fits. Raises LookupError when there is none."""
        fitting = [x for x in self.tensors if wanted(x)]
        if not fitting:
            raise LookupError
        # Young ones more often, so that graphs grow deep.
        return fitting[-1] if self.random.random() < 0.4 else self.random.choice(fitting)

    def float(self, least: int = 0, most: int = 9) -> Tensor:
        """A float32 tensor that is not empty."""
        return self.one(lambda x: x.data.dtype == np.float32 and least <= x.rank <= most and x.data.size > 0)

    def exact(self, least: int = 0, most: int = 9) -> Tensor:
        return self.one(lambda x: x.exact and x.data.dtype.kind != "b" and least <= x.rank <= most and x.data.size > 0)

    def any(self, least: int = 0, most: int = 9) -> Tensor:
        return self.one(lambda x: least <= x.rank <= most and x.data.size > 0)

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)

    def positive(self, *shape: int) -> Array:
        return self.rng.uniform(0.5, 2.0, shape).astype(np.float32)

    def axis(self, x: Tensor) -> int:
        """A dimension, counted from either end."""
        return self.random.randint(-x.rank, x.rank - 1)

    def axes(self, x: Tensor) -> list[int]:
        """Some dimensions."""
        return sorted(self.random.sample(range(x.rank), self.random.randint(1, x.rank)))

    def partner(self, x: Tensor) -> Tensor | Array:
        """Something of the same dtype that broadcasts with `x`."""

        def fits(y: Tensor) -> bool:
            if y.data.dtype != x.data.dtype:
                return False
            try:
                return np.broadcast_shapes(x.data.shape, y.data.shape) is not None
            except ValueError:
                return False

        if self.random.random() < 0.7:
            return self.one(fits)
        shape = [n if self.random.random() < 0.6 else 1 for n in x.data.shape[self.random.randint(0, x.rank) :]]
        if x.data.dtype == np.float32:
            return self.normal(*shape)
        return self.rng.integers(1, 5, shape).astype(x.data.dtype)


Drawer = Callable[[Draw], Draft]
DRAWERS: dict[str, Drawer] = {}
"""How to draw a node of each operator. A drawer raises LookupError when no tensor of the graph fits."""


def drawer(*kinds: str) -> Callable[[Callable[[Draw, str], Draft]], Callable[[Draw, str], Draft]]:
    """Registers a function for operators; it is called with the operator's name."""

    def register(function: Callable[[Draw, str], Draft]) -> Callable[[Draw, str], Draft]:
        for kind in kinds:
            DRAWERS[kind] = lambda draw, kind=kind: function(draw, kind)  # type: ignore[misc]
        return function

    return register


SMOOTH = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Identity",
    "LogSoftmax",
    "Softmax",
]


EDGES = {
    "Acos": (-1, 1),
    "Acosh": (1,),
    "Asin": (-1, 1),
    "Atanh": (-1, 1),
    "Log": (0,),
    "Reciprocal": (0,),
    "Sqrt": (0,),
}
"""Where functions end or have poles: so near them a rounding of the operand changes everything."""


@drawer(*SMOOTH)
def _unary(draw: Draw, kind: str) -> Draft:
    x = draw.float(1 if "Softmax" in kind else 0)
    if kind == "Tan" and np.abs(np.cos(x.data)).min() < 0.1:
        raise LookupError  # so near a pole a rounding of the operand is an error of any size
    if not x.exact and any(np.abs(x.data - edge).min() < 1e-3 for edge in EDGES.get(kind, ())):
        raise LookupError
    if kind == "LogSoftmax" and np.ptp(x.data) > 80:
        raise LookupError  # the reference takes the logarithm of what underflows
    attributes: dict[str, Any] = {"axis": draw.axis(x)} if "Softmax" in kind else {}
    if kind in ("Elu", "Celu", "LeakyRelu"):
        attributes["alpha"] = draw.random.uniform(0.1, 2)
    if kind == "Gelu":
        attributes["approximate"] = draw.random.choice(["none", "tanh"])
    return Draft(kind, [x], attributes=attributes, exact=kind in ("Abs", "Neg", "Relu", "Identity"))


@drawer("Ceil", "Floor", "Round", "Sign")
def _step(draw: Draw, kind: str) -> Draft:
    return Draft(kind, [draw.one(lambda x: x.is_float and x.exact)], exact=True)


@drawer("IsNaN", "IsInf")
def _special(draw: Draw, kind: str) -> Draft:
    return Draft(kind, [draw.one(lambda x: x.is_float and x.exact)], exact=True)


@drawer("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Mean", "Sum")
def _binary(draw: Draw, kind: str) -> Draft:
    if kind == "Pow":
        x = draw.float()
        return Draft(kind, [x, np.asarray(draw.random.choice([1.0, 2.0, 3.0]), np.float32)])
    if kind == "PRelu":
        x = draw.float(1)
        return Draft(kind, [x, draw.normal(*(n if draw.random.random() < 0.5 else 1 for n in x.data.shape))])
    if kind == "Div":
        x = draw.float()
        return Draft(kind, [x, draw.positive(*x.data.shape)])
    x = draw.one(lambda t: t.data.dtype in (np.float32, np.int64) if kind in ("Add", "Sub", "Mul") else t.is_float)
    return Draft(kind, [x, draw.partner(x)], exact=kind in ("Max", "Min"))


@drawer("Mod", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
def _integers(draw: Draw, kind: str) -> Draft:
    x = draw.one(lambda t: t.data.dtype == np.int64 and t.exact)
    if kind == "BitShift":
        unsigned = np.abs(draw.rng.integers(0, 1000, x.data.shape)).astype(np.uint32)
        by = draw.rng.integers(0, 8, x.data.shape).astype(np.uint32)
        return Draft(kind, [unsigned, by], attributes={"direction": draw.random.choice(["LEFT", "RIGHT"])}, exact=True)
    return Draft(kind, [x, draw.rng.integers(1, 9, x.data.shape)], exact=True)


@drawer("BitwiseNot")
def _flip(draw: Draw, kind: str) -> Draft:
    return Draft(kind, [draw.one(lambda t: t.data.dtype == np.int64)], exact=True)


@drawer("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def _comparison(draw: Draw, kind: str) -> Draft:
    x = draw.exact()
    y = draw.partner(x)
    if isinstance(y, Tensor) and not y.exact:
        raise LookupError
    return Draft(kind, [x, y], exact=True)


@drawer("And", "Or", "Xor")
def _logic(draw: Draw, kind: str) -> Draft:
    x = draw.one(lambda t: t.data.dtype == np.bool_)
    return Draft(kind, [x, draw.rng.random(x.data.shape) < 0.5], exact=True)


@drawer("Not")
def _negation(draw: Draw, kind: str) -> Draft:
    return Draft(kind, [draw.one(lambda t: t.data.dtype == np.bool_)], exact=True)


@drawer("Where")
def _where(draw: Draw, kind: str) -> Draft:
    x = draw.one(lambda t: t.data.dtype in (np.float32, np.int64))
    condition = draw.rng.random([n if draw.random.random() < 0.7 else 1 for n in x.data.shape]) < 0.5
    return Draft(kind, [condition, x, draw.partner(x)], exact=True)


@drawer("Clip")
def _clip(draw: Draw, kind: str) -> Draft:
    low, high = sorted(draw.rng.uniform(-2, 2, 2))
    bounds = [np.float32(low) if draw.random.random() < 0.8 else None, np.float32(high)]
    return Draft(kind, [draw.float(), *(None if b is None else np.asarray(b) for b in bounds)], exact=True)


@drawer("Cast")
def _cast(draw: Draw, kind: str) -> Draft:
    x = draw.one(lambda t: t.exact)
    return Draft(kind, [x], attributes={"to": draw.random.choice([1, 6, 7, 9, 10, 11])}, exact=True)


REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


@drawer(*REDUCTIONS)
def _reduction(draw: Draw, kind: str) -> Draft:
    x = draw.float(1)
    axes = np.asarray(draw.axes(x), np.int64) if draw.random.random() < 0.9 else None
    return Draft(
        kind, [x, axes], attributes={"keepdims": draw.random.randint(0, 1)}, exact=kind in ("ReduceMax", "ReduceMin")
    )


@drawer("ArgMax", "ArgMin")
def _extreme(draw: Draw, kind: str) -> Draft:
    x = draw.exact(1)
    attributes = {
        "axis": draw.axis(x),
        "keepdims": draw.random.randint(0, 1),
        "select_last_index": draw.random.randint(0, 1),
    }
    return Draft(kind, [x], attributes=attributes, exact=True)


@drawer("TopK")
def _top(draw: Draw, kind: str) -> Draft:
    x = draw.exact(1)
    axis = draw.axis(x)
    k = np.asarray([draw.random.randint(1, x.data.shape[axis])], np.int64)
    return Draft(kind, [x, k], 2, {"axis": axis, "largest": draw.random.randint(0, 1)}, exact=True)


@drawer("CumSum")
def _cumulative(draw: Draw, kind: str) -> Draft:
    x = draw.float(1)
    attributes = {"exclusive": draw.random.randint(0, 1), "reverse": draw.random.randint(0, 1)}
    return Draft(kind, [x, np.asarray(draw.axis(x), np.int64)], attributes=attributes)


@drawer("Trilu")
def _triangle(draw: Draw, kind: str) -> Draft:
    x = draw.float(2)
    k = np.asarray(draw.random.randint(-3, 3), np.int64)
    return Draft(kind, [x, k], attributes={"upper": draw.random.randint(0, 1)}, exact=True)
