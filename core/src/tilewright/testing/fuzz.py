"""The fuzzer: random graphs of many operators, compared with ONNX's reference evaluator.

A graph grows node by node, and each node is evaluated by the reference at once, so that the next one can be drawn over
what is there. Operators that jump (rounding, comparison, selection by size) are only drawn over tensors that every
implementation must compute exactly; values that overflow end their branch of the graph.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import UnsupportedError
from tilewright.frontend import load
from tilewright.ir.module import Module
from tilewright.testing import fuzz_movement  # noqa: F401 - it registers its operators
from tilewright.testing.fuzz_operators import DRAWERS, Draft, Draw, Tensor

OPSET = 20
LARGEST = 1e3
"""Magnitude from which on nothing more is computed of a tensor."""
NORM, ABSOLUTE = 1e-4, 1e-3
"""A float result agrees when ‖a − b‖ / ‖b‖ is at most the one, or every difference at most the other."""

Execute = Callable[[Module, Sequence[Any]], Sequence[Any]]


@attrs.frozen
class Graph:
    """A random graph.

    Args:
        feeds: arrays of the inputs, in order.
        expected: what the reference gives for each output.
        operators: the types of its nodes.
    """

    seed: int
    model: onnx.ModelProto
    feeds: tuple[Any, ...]
    expected: tuple[Any, ...]
    operators: tuple[str, ...]


@attrs.define
class Report:
    """What came of a run.

    Args:
        operators: nodes of graphs that agreed, by operator.
        failures: (seed, what was wrong).
        declined: graphs that were refused with a clear error, by its text.
    """

    graphs: int = 0
    operators: Counter[str] = attrs.field(factory=Counter)
    failures: list[tuple[int, str]] = attrs.field(factory=list)
    declined: Counter[str] = attrs.field(factory=Counter)


def fuzz(seeds: Iterator[int], execute: Execute, until: float | None = None) -> Report:
    """Draws a graph from each seed and compares.

    Args:
        execute: runs a module on arrays.
        until: time (`time.monotonic`) to stop at.
    """
    report = Report()
    for seed in seeds:
        if until is not None and time.monotonic() >= until:
            break
        graph = draw_graph(seed)
        report.graphs += 1
        try:
            module = load(graph.model)
            found = execute(module, graph.feeds)
        except UnsupportedError as error:
            report.declined[error.message] += 1
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            report.failures.append((seed, f"{type(error).__name__}: {error}"))
            continue
        wrong = [w for w in map(difference, module.output_names, found, graph.expected) if w]
        if wrong:
            report.failures.append((seed, f"{', '.join(wrong)} in {' '.join(graph.operators)}"))
        else:
            report.operators.update(graph.operators)
    return report


def difference(name: str, ours: Any, theirs: Any) -> str:
    """How an output differs from the reference's, "" if it does not."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return f"{name} is {ours.dtype}{list(ours.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
    if ours.dtype.kind != "f":
        return f"{name} differs in {int((ours != theirs).sum())} elements" if (ours != theirs).any() else ""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.where(finite, 0, a), np.where(finite, 0, b), equal_nan=True):
        return f"{name} has other infinities or NaN"
    delta = np.abs(a[finite] - b[finite])
    norm = float(np.linalg.norm(delta)) / (float(np.linalg.norm(b[finite])) or 1.0)
    return "" if norm <= NORM or float(delta.max(initial=0)) <= ABSOLUTE else f"{name} differs by {norm:.2g}"


def draw_graph(seed: int) -> Graph:
    """The graph of a seed."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return _Growing(seed).grow()


class _Growing:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.tensors: list[Tensor] = []
        self.draw = Draw(seed, self.tensors)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.infos: list[onnx.ValueInfoProto] = []
        self.results: dict[str, Any] = {}
        self.used: set[str] = set()

    def grow(self) -> Graph:
        """Inputs, then up to a dozen nodes."""
        rng, pick = self.draw.rng, self.draw.random
        shape = [pick.randint(1, 6) for _ in range(pick.randint(1, 4))]
        feeds: list[Any] = [rng.standard_normal(s).astype(np.float32) for s in (shape, shape[-1:])]
        feeds += [rng.integers(-9, 9, shape), rng.random(shape) < 0.5]
        for number, data in enumerate(feeds):
            self.tensors.append(Tensor(f"x{number}", data, True))
            self.infos.append(_info(f"x{number}", data))
        for _ in range(pick.randint(1, 12)):
            for _ in range(20):
                if self._node(pick.choice(sorted(DRAWERS))):
                    break
        names = [x for x in self.results if x not in self.used] or list(self.results)
        outputs = [_info(x, self.results[x]) for x in names]
        graph = helper.make_graph(self.nodes, f"fuzz_{self.seed}", self.infos, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        expected = tuple(self.results[x] for x in names)
        return Graph(self.seed, model, tuple(feeds), expected, tuple(x.op_type for x in self.nodes))

    def _node(self, kind: str) -> bool:
        """Adds a node; False when none can be drawn, or the reference refuses it."""
        try:
            draft = DRAWERS[kind](self.draw)
        except LookupError:
            return False
        number = len(self.nodes)
        names = [f"{kind}_{number}_{n}" for n in range(draft.outputs)]
        inputs, new = self._inputs(draft, number)
        node = helper.make_node(kind, inputs, names, name=f"{kind} {number}", **draft.attributes)
        found = _evaluate(node, draft, new)
        if found is None or any(x.size > 4096 for x in found):
            return False
        self.weights += new.values()
        self.nodes.append(node)
        self.used.update(x.name for x in draft.inputs if isinstance(x, Tensor))
        exact = draft.exact and all(x.exact for x in draft.inputs if isinstance(x, Tensor))
        for name, data in zip(names, found, strict=True):
            self.results[name] = data
            if data.dtype.kind != "f" or (np.isfinite(data).all() and np.abs(data).max(initial=0) < LARGEST):
                self.tensors.append(Tensor(name, data, exact))
        return True

    def _inputs(self, draft: Draft, number: int) -> tuple[list[str], dict[str, onnx.TensorProto]]:
        """The names of the operands, and the new initialisers among them."""
        names, new = [], {}
        for position, operand in enumerate(draft.inputs):
            if isinstance(operand, Tensor):
                names.append(operand.name)
                continue
            name = "" if operand is None else f"w{number}_{position}"
            names.append(name)
            if operand is not None:
                new[name] = numpy_helper.from_array(np.asarray(operand), name)
        while names and not names[-1]:
            names.pop()
        return names, new


def _evaluate(node: onnx.NodeProto, draft: Draft, new: dict[str, onnx.TensorProto]) -> list[Any] | None:
    """The reference's results, None when it refuses the node."""
    from onnx.reference import ReferenceEvaluator

    feeds = {x.name: x.data for x in draft.inputs if isinstance(x, Tensor)}
    feeds |= {name: numpy_helper.to_array(x) for name, x in new.items()}
    infos = [_info(name, data) for name, data in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=x) for x in node.output]
    graph = helper.make_graph([node], "node", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    try:
        typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        found = [np.asarray(x) for x in ReferenceEvaluator(model).run(None, feeds)]
    except Exception:  # noqa: BLE001 - a draft that ONNX does not take is drawn again
        return None
    # Where the reference contradicts ONNX's own inference it is no reference.
    types = [x.type.tensor_type for x in typed.graph.output]
    wanted = [helper.tensor_dtype_to_np_dtype(x.elem_type) for x in types]
    if [x.dtype for x in found] != wanted:
        return None
    for array, kind in zip(found, types, strict=True):
        dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if len(dims) != array.ndim or any(d not in (None, n) for d, n in zip(dims, array.shape, strict=True)):
            return None
    return found


def _info(name: str, data: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(data.dtype), data.shape)
