"""Random graphs for the fuzzer.

A graph grows node by node, and each node is evaluated by the reference at once, so that the next one can be drawn over
what is there. Operators that jump (rounding, comparison, selection by size) are only drawn over tensors that every
implementation must compute exactly; values that overflow end their branch of the graph. The bodies of loops, scans and
branches grow in the same way, over what they capture and what the first trip is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.testing import fuzz_movement  # noqa: F401 - it registers its operators
from tilewright.testing.control import control_case
from tilewright.testing.fuzz_operators import DRAWERS, Draft, Draw, Tensor
from tilewright.testing.reference import Reference

OPSET = 20
LARGEST = 1e3
"""Magnitude from which on nothing more is computed of a tensor."""
CONTROL = ("If", "Loop", "Scan")
DEEPEST = 2
"""Control flow inside control flow, at most."""
MIXED = 5
"""Of so many graphs one is a model of `testing.control`: little else but control flow."""


@attrs.frozen
class Graph:
    """A random graph.

    Args:
        feeds: arrays of the inputs, in order.
        expected: what the reference gives for each output.
        operators: the types of its nodes, of those in bodies too.
    """

    seed: int
    model: onnx.ModelProto
    feeds: tuple[Any, ...]
    expected: tuple[Any, ...]
    operators: tuple[str, ...]


def draw_graph(seed: int) -> Graph:
    """The graph of a seed."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return _control(seed) if seed % MIXED == MIXED - 1 else _Growing(seed).grow()


def _control(seed: int) -> Graph:
    case = control_case(seed)
    expected = Reference(case.model.opset_import[0].version).graph(case.model.graph, case.feeds)
    feeds = tuple(case.feeds[x.name] for x in case.model.graph.input)
    return Graph(seed, case.model, feeds, tuple(expected), tuple(_operators(case.model.graph.node)))


def _operators(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            yield from _operators(attribute.g.node)


@attrs.define
class _Block:
    """The nodes of a graph under construction.

    Args:
        tensors: what they may read.
        results: what they compute, by name.
    """

    tensors: list[Tensor]
    nodes: list[onnx.NodeProto] = attrs.field(factory=list)
    results: dict[str, Any] = attrs.field(factory=dict)
    depth: int = 0


class _Growing:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.block = _Block([])
        self.draw = Draw(seed, self.block.tensors)
        self.weights: dict[str, onnx.TensorProto] = {}
        self.infos: list[onnx.ValueInfoProto] = []
        self.used: set[str] = set()
        self.count = 0

    def grow(self) -> Graph:
        """Inputs, then up to a dozen nodes."""
        rng, pick = self.draw.rng, self.draw.random
        shape = [pick.randint(1, 6) for _ in range(pick.randint(1, 4))]
        feeds: list[Any] = [rng.standard_normal(s).astype(np.float32) for s in (shape, shape[-1:])]
        feeds += [rng.integers(-9, 9, shape), rng.random(shape) < 0.5]
        feeds += [np.asarray(pick.randint(0, 3)), np.asarray(pick.random() < 0.5)]
        for number, data in enumerate(feeds):
            self.block.tensors.append(Tensor(f"x{number}", data, True))
            self.infos.append(_info(f"x{number}", data))
        self._fill(pick.randint(1, 12))
        results = self.block.results
        names = [x for x in results if x not in self.used] or list(results)
        outputs = [_info(x, results[x]) for x in names]
        nodes = self.block.nodes
        graph = helper.make_graph(nodes, f"fuzz_{self.seed}", self.infos, outputs, list(self.weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        expected = tuple(results[x] for x in names)
        return Graph(self.seed, model, tuple(feeds), expected, tuple(_operators(nodes)))

    def _fill(self, nodes: int) -> None:
        kinds = sorted(DRAWERS) + (6 * list(CONTROL) if self.block.depth < DEEPEST else [])
        for _ in range(nodes):
            for _ in range(20):
                if self._node(self.draw.random.choice(kinds)):
                    break

    def _node(self, kind: str) -> bool:
        """Adds a node; False when none can be drawn, or the reference refuses it."""
        try:
            draft = self._with_bodies(kind) if kind in CONTROL else DRAWERS[kind](self.draw)
        except LookupError:
            return False
        self.count += 1
        names = [f"{kind}_{self.count}_{n}" for n in range(draft.outputs)]
        inputs, new = self._inputs(draft)
        node = helper.make_node(kind, inputs, names, name=f"{kind} {self.count}", **draft.attributes)
        read = {x.name: x.data for x in draft.inputs if isinstance(x, Tensor)}
        read |= {name: numpy_helper.to_array(x) for name, x in new.items()}
        found = self._evaluate_control(node, read) if kind in CONTROL else _evaluate(node, read)
        if found is None or any(x.size > 4096 for x in found):
            return False
        self.weights |= new
        self.block.nodes.append(node)
        self.used.update(x.name for x in draft.inputs if isinstance(x, Tensor))
        exact = draft.exact and all(x.exact for x in draft.inputs if isinstance(x, Tensor))
        for name, data in zip(names, found, strict=True):
            self.block.results[name] = data
            # Numbers that are no floats are only ever computed of exact ones, in bodies too.
            if data.dtype.kind != "f" or _moderate(data):
                known = exact or (kind in CONTROL and data.dtype.kind != "f")
                self.block.tensors.append(Tensor(name, data, known))
        return True

    def _inputs(self, draft: Draft) -> tuple[list[str], dict[str, onnx.TensorProto]]:
        """The names of the operands, and the new initialisers among them."""
        names, new = [], {}
        for position, operand in enumerate(draft.inputs):
            if isinstance(operand, Tensor):
                names.append(operand.name)
                continue
            name = "" if operand is None else f"w{self.count}_{position}"
            names.append(name)
            if operand is not None:
                new[name] = numpy_helper.from_array(np.asarray(operand), name)
        while names and not names[-1]:
            names.pop()
        return names, new

    # Control flow.

    def _with_bodies(self, kind: str) -> Draft:
        """A node with graphs. A body that is thrown away with its node leaves weights behind, which do no harm."""
        return {"If": self._branch, "Loop": self._loop, "Scan": self._scan}[kind]()

    def _branch(self) -> Draft:
        condition = self._flag()
        like = self.draw.one(lambda x: x.is_float and x.data.size > 0)
        bodies = {name: self._body([], [like], 0)[0] for name in ("then_branch", "else_branch")}
        return Draft("If", [condition], attributes=bodies)

    def _loop(self) -> Draft:
        pick = self.draw.random
        trip: Tensor | Any = np.asarray(pick.randint(0, 3))
        certain = pick.random() < 0.6
        if not certain:
            trip = self.draw.one(lambda x: x.exact and x.data.dtype == np.int64 and x.rank == 0 and int(x.data) <= 5)
        first = self._flag() if not certain and pick.random() < 0.3 else None
        states = [self.draw.float() for _ in range(pick.randint(1, 2))]
        number, going = self._param("i", np.asarray(0)), self._param("going", np.asarray(True))
        params = [number, going, *(self._param("state", x.data, exact=False) for x in states)]
        last = pick.randint(0, 3) if not certain and pick.random() < 0.5 else None
        body, rows = self._body(params, states, pick.randint(0, 2) if certain else 0, going=True, last=last)
        return Draft("Loop", [trip, first, *states], len(states) + rows, {"body": body})

    def _scan(self) -> Draft:
        pick = self.draw.random
        states = [self.draw.float() for _ in range(pick.randint(0, 2))]
        first = self.draw.any(1)
        axes = [self.draw.axis(first)]
        length = first.data.shape[axes[0]]
        scanned = [first]
        if pick.random() < 0.4:
            scanned.append(self.draw.one(lambda x: length in x.data.shape and x.data.size > 0))
            axes.append(scanned[1].data.shape.index(length))
        backwards = [pick.randint(0, 1) for _ in axes]
        rows = [
            np.take(x.data, length - 1 if reverse else 0, axis)
            for x, axis, reverse in zip(scanned, axes, backwards, strict=True)
        ]
        params = [self._param("state", x.data, exact=False) for x in states]
        params += [self._param("row", row, x.exact) for row, x in zip(rows, scanned, strict=True)]
        body, outputs = self._body(params, states, pick.randint(0 if states else 1, 2))
        attributes: dict[str, Any] = {"body": body, "num_scan_inputs": len(scanned), "scan_input_axes": axes}
        attributes["scan_input_directions"] = backwards
        if outputs:
            ranks = [len(x.type.tensor_type.shape.dim) + 1 for x in body.output[len(states) :]]
            attributes["scan_output_axes"] = [pick.randint(-r, r - 1) for r in ranks]
            attributes["scan_output_directions"] = [pick.randint(0, 1) for _ in ranks]
        return Draft("Scan", [*states, *scanned], len(states) + outputs, attributes)

    def _param(self, hint: str, data: Any, exact: bool = True) -> Tensor:
        self.count += 1
        return Tensor(f"{hint}_{self.count}", np.asarray(data), exact)

    def _flag(self) -> Tensor:
        return self.draw.one(lambda x: x.exact and x.data.dtype == np.bool_ and x.rank == 0)

    def _body(
        self,
        params: Sequence[Tensor],
        states: Sequence[Tensor],
        rows: int,
        going: bool = False,
        last: int | None = None,
    ) -> tuple[onnx.GraphProto, int]:
        """A graph over what is in scope and its parameters, and how many rows it gives.

        Args:
            states: what its first results have the types of; values between -1 and 1, so that they may be iterated.
            rows: results of any type that follow, at most.
            going: whether it is a loop's, so that its second parameter, or a test of its first, comes first of all.
            last: the number of the last trip, where the body decides that.
        """
        outer = self.block
        self.block = _Block([*outer.tensors, *params], depth=outer.depth + 1)
        self.draw.tensors = self.block.tensors
        try:
            self._fill(self.draw.random.randint(1, 4))
            results: list[tuple[str, Any]] = []
            if going and last is None:
                results.append((self._add("Identity", params[1].name), params[1].data))
            elif going:
                limit = self._weight(np.asarray(last))
                results.append((self._add("Less", params[0].name, limit), params[1].data))
            made = list(self.block.results.items())
            results += [(self._state(x), x.data) for x in states]
            wanted = [x for x in made if x[1].dtype.kind != "f" or _moderate(x[1])]
            kept = self.draw.random.sample(wanted, min(rows, len(wanted)))
            if not results and not kept:
                raise LookupError
            results += [(self._add("Identity", name), data) for name, data in kept]
            inputs = [_info(x.name, x.data) for x in params]
            outputs = [_info(name, data) for name, data in results]
            return helper.make_graph(self.block.nodes, f"body_{self.count}", inputs, outputs), len(kept)
        finally:
            self.block = outer
            self.draw.tensors = outer.tensors

    def _state(self, like: Tensor) -> str:
        """A result of the body with the type of `like`, of something that the body computed where there is such."""
        made = self.block.results
        fitting = [
            n for n, x in made.items() if (x.dtype, x.shape) == (like.data.dtype, like.data.shape) and _moderate(x)
        ]
        result = self.draw.random.choice(fitting) if fitting else like.name
        others = [n for n, x in made.items() if x.dtype == like.data.dtype and x.size > 0 and _moderate(x)]
        if others and not fitting:
            result = self._add("Add", result, self._add("ReduceMean", self.draw.random.choice(others), keepdims=0))
        return self._add("Tanh", result)

    def _weight(self, data: Any) -> str:
        self.count += 1
        name = f"w{self.count}"
        self.weights[name] = numpy_helper.from_array(data, name)
        return name

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        name = f"{kind}_{self.count}"
        self.block.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _evaluate_control(self, node: onnx.NodeProto, read: Mapping[str, Any]) -> list[Any] | None:
        """The reference's results; None when a trip computes something that is not to be computed with."""
        known = {x.name: x.data for x in self.block.tensors} | dict(read)
        known |= {name: numpy_helper.to_array(x) for name, x in self.weights.items()}

        def watch(array: Any) -> None:
            if array.dtype.kind == "f" and not _moderate(array):
                raise OverflowError

        try:
            return Reference(OPSET, watch).node(node, known)
        except Exception:  # noqa: BLE001 - as below
            return None


def _moderate(data: Any) -> bool:
    return bool(np.isfinite(data).all() and np.abs(data).max(initial=0) < LARGEST)


def _evaluate(node: onnx.NodeProto, feeds: Mapping[str, Any]) -> list[Any] | None:
    """The reference's results, None when it refuses the node."""
    from onnx.reference import ReferenceEvaluator

    infos = [_info(name, data) for name, data in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=x) for x in node.output]
    graph = helper.make_graph([node], "node", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    try:
        typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        found = [np.asarray(x) for x in ReferenceEvaluator(model).run(None, dict(feeds))]
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
