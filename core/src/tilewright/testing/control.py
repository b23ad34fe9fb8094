"""Models with random control flow: nested loops, branches and scans over small tensors.

Every choice comes from the seed: how a loop ends (a constant or run-time number of trips, a flag, a condition on the
data, several of them), what it carries (one to three states, passed on, swapped, or replaced by something captured),
what it collects, along which axes and in which directions a scan runs. Every state is squashed to (-1, 1), so that
results stay comparable over many trips.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.testing.cases import Case

SHAPE = (2, 3)
DEEPEST = 3
"""Control flow inside control flow, at most."""


_Typed = tuple[str, int, tuple[int, ...]]
"""Name, ONNX's element type, shape."""


def control_case(seed: int, lengths: Sequence[int] = (0, 1, 2, 5), shape: tuple[int, int] = SHAPE) -> Case:
    """One model with control flow and inputs for it.

    Args:
        lengths: what a scan runs over.
        shape: of the tensors.
    """
    return _Writer(seed, lengths, shape).case()


@attrs.define
class _Scope:
    """A graph under construction, and the tensors of the model's shape that its nodes may read."""

    nodes: list[onnx.NodeProto]
    tensors: list[str]
    depth: int

    def inner(self, given: Sequence[str] = ()) -> _Scope:
        return _Scope([], [*self.tensors, *given], self.depth + 1)


class _Writer:
    def __init__(self, seed: int, lengths: Sequence[int], shape: tuple[int, int]) -> None:
        self.seed = seed
        self.lengths = lengths
        self.shape = shape
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.count = 0
        self.inputs: dict[str, Any] = {}
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int | str, ...]] = {}

    def case(self) -> Case:
        scope = _Scope([], [self.input("x", self.tensor()), self.input("z", self.tensor())], 0)
        self.straight(scope)
        made = self.control(scope)
        if self.random.random() < 0.5:
            made += self.control(scope)
        made.append(self.straight(scope))
        infos = [_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in self.inputs.items()]
        outputs = [_info(x, TensorProto.FLOAT, self.shapes.get(x, self.shape)) for x in dict.fromkeys(made)]
        graph = helper.make_graph(scope.nodes, f"control_{self.seed}", infos, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return Case(f"control {self.seed}", onnx.shape_inference.infer_shapes(model), self.inputs)

    # Leaves.

    def fresh(self, hint: str) -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def tensor(self) -> Any:
        return self.rng.standard_normal(self.shape).astype(np.float32)

    def input(self, hint: str, data: Any) -> str:
        name = self.fresh(hint)
        self.inputs[name] = np.asarray(data)
        return name

    def const(self, data: Any) -> str:
        name = self.fresh("w")
        self.weights.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def op(self, scope: _Scope, kind: str, *inputs: str, **attributes: Any) -> str:
        name = self.fresh(kind.lower())
        scope.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind} {name}", **attributes))
        return name

    # Straight code.

    def straight(self, scope: _Scope) -> str:
        """A few operators on what is in scope; the last result, squashed."""
        for _ in range(self.random.randint(1, 2)):
            a, b = self.random.choice(scope.tensors), self.random.choice(scope.tensors)
            match self.random.choice(["add", "multiply", "product", "rows", "scale", "transpose"]):
                case "add":
                    found = self.op(scope, "Sub", a, b)
                case "multiply":
                    found = self.op(scope, "Mul", a, b)
                case "product":
                    weight = self.rng.standard_normal((self.shape[1], self.shape[1])).astype(np.float32)
                    found = self.op(scope, "MatMul", a, self.const(weight))
                case "rows":
                    found = self.op(scope, "Sub", a, self.op(scope, "ReduceMean", b, self.const([1]), keepdims=1))
                case "scale":
                    found = self.op(scope, "Mul", a, self.const(np.float32(self.rng.uniform(0.5, 1.5))))
                case _:
                    turned = self.op(scope, "Transpose", a, perm=[1, 0])
                    turned = self.op(scope, "Reshape", turned, self.const([*self.shape]))
                    found = self.op(scope, "Add", turned, b)
            scope.tensors.append(self.op(scope, "Tanh", found))
        return scope.tensors[-1]

    def flag(self, scope: _Scope) -> str:
        """A bool scalar: an input, or a test of the data."""
        if self.random.random() < 0.4:
            return self.input("flag", np.asarray(self.random.random() < 0.6))
        total = self.op(scope, "ReduceSum", self.random.choice(scope.tensors), keepdims=0)
        return self.op(scope, "Less", total, self.const(np.float32(self.rng.uniform(-1, 2))))

    def control(self, scope: _Scope) -> list[str]:
        """An `If`, a `Loop` or a `Scan`; its outputs, those of the model's shape also in scope."""
        kind = self.random.choice(["if", "loop", "loop", "loop", "scan"])
        return {"if": self.branch, "loop": self.loop, "scan": self.scan}[kind](scope)

    def block(self, scope: _Scope) -> None:
        """The inside of a region: straight code, perhaps control flow, straight code."""
        self.straight(scope)
        if scope.depth < DEEPEST and self.random.random() < 0.4:
            self.control(scope)
            self.straight(scope)

    # Control flow.

    def branch(self, scope: _Scope) -> list[str]:
        count = self.random.randint(1, 2)
        known = self.random.random() < 0.1
        condition = self.const(np.asarray(self.random.random() < 0.5)) if known else self.flag(scope)
        graphs = []
        for _ in range(2):
            inner = scope.inner()
            if self.random.random() < 0.8:
                self.block(inner)
            graphs.append(self.graph(inner, [], [self.result(inner) for _ in range(count)]))
        return self.add(scope, "If", [condition], count, then_branch=graphs[0], else_branch=graphs[1])

    def result(self, scope: _Scope) -> _Typed:
        """A result of a graph: something computed there, passed through, or captured."""
        return self.op(scope, "Identity", self.random.choice(scope.tensors)), TensorProto.FLOAT, self.shape

    def loop(self, scope: _Scope) -> list[str]:
        draw = self.random.random
        trips = self.random.choice([0, 1, 2, 5])
        way = self.random.choice(["constant", "constant", "input", "none"])
        limit = np.asarray(trips, np.int64)
        trip = "" if way == "none" else self.const(limit) if way == "constant" else self.input("trips", limit)
        first = self.random.choice(["", "true", "flag"])
        early = way == "none" or draw() < 0.4
        condition = "" if not first else self.const(np.asarray(True)) if first == "true" else self.flag(scope)
        certain = way == "constant" and first != "flag" and not early
        states = self.random.randint(1, 3)
        number, going, *carried = [self.fresh(x) for x in ("number", "going", *(["state"] * states))]
        inner = scope.inner(carried)
        self.block(inner)
        if draw() < 0.3:
            step = self.op(inner, "Cast", number, to=TensorProto.FLOAT)
            inner.tensors.append(self.op(inner, "Sin", self.op(inner, "Add", step, inner.tensors[-1])))
        results = [self.result(inner) for _ in range(states)]
        if draw() < 0.2:
            results = [(self.op(inner, "Identity", x), TensorProto.FLOAT, self.shape) for x in reversed(carried)]
        goes_on = self.op(inner, "Identity", going)
        if early:
            last = self.const(np.asarray(self.random.randint(0, 4), np.int64))
            goes_on = self.op(inner, "Less", number, last)
            if draw() < 0.5:
                goes_on = self.op(inner, "And", goes_on, self.flag(inner))
        rows: list[_Typed] = []
        for _ in range(self.random.randint(0, 2) if way == "constant" else 0):
            if draw() < 0.5:
                rows.append(self.result(inner))
            else:
                total = self.op(inner, "ReduceSum", self.random.choice(inner.tensors), keepdims=0)
                rows.append((total, TensorProto.FLOAT, ()))
        params: list[_Typed] = [(number, TensorProto.INT64, ()), (going, TensorProto.BOOL, ())]
        params += [(x, TensorProto.FLOAT, self.shape) for x in carried]
        body = self.graph(inner, params, [(goes_on, TensorProto.BOOL, ()), *results, *rows])
        given = [trip, condition, *(self.random.choice(scope.tensors) for _ in range(states))]
        count = trips if certain else "trips"
        return self.add(scope, "Loop", given, states, [(count, *shape) for _, _, shape in rows], body=body)

    def scan(self, scope: _Scope) -> list[str]:
        states, scanned, length = self.random.randint(0, 2), self.random.randint(1, 2), self.random.choice(self.lengths)
        axes = [self.random.choice([-3, 0, 1, 2]) for _ in range(scanned)]
        given = []
        for axis in axes:
            data = self.rng.standard_normal(_with(self.shape, length, axis)).astype(np.float32)
            given.append(self.input("sequence", data) if self.random.random() < 0.5 else self.const(data))
        carried = [self.fresh("state") for _ in range(states)]
        rows = [self.fresh("row") for _ in range(scanned)]
        inner = scope.inner([*carried, *rows])
        self.block(inner)
        outputs = self.random.randint(0 if states else 1, 2)
        results = [self.result(inner) for _ in range(states + outputs)]
        body = self.graph(inner, [(x, TensorProto.FLOAT, self.shape) for x in (*carried, *rows)], results)
        attributes: dict[str, Any] = {
            "scan_input_axes": axes,
            "scan_input_directions": [self.random.randint(0, 1) for _ in axes],
            "scan_output_axes": [self.random.choice([-1, 0, 1, 2]) for _ in range(outputs)],
            "scan_output_directions": [self.random.randint(0, 1) for _ in range(outputs)],
        }
        needed = {"scan_input_axes"} if any(x % 3 for x in axes) else set()
        attributes = {k: v for k, v in attributes.items() if v and (k in needed or self.random.random() < 0.8)}
        start = [self.random.choice(scope.tensors) for _ in range(states)]
        attributes |= {"body": body, "num_scan_inputs": scanned}
        shapes = [_with(self.shape, length, axis) for axis in attributes.get("scan_output_axes", [0] * outputs)]
        return self.add(scope, "Scan", [*start, *given], states, shapes, **attributes)

    # Assembly.

    def graph(
        self,
        scope: _Scope,
        params: Sequence[_Typed],
        results: Sequence[_Typed],
    ) -> onnx.GraphProto:
        return helper.make_graph(
            scope.nodes, self.fresh("graph"), [_info(*x) for x in params], [_info(*x) for x in results]
        )

    def add(
        self,
        scope: _Scope,
        kind: str,
        inputs: Sequence[str],
        tensors: int,
        others: Sequence[tuple[int | str, ...]] = (),
        **attributes: Any,
    ) -> list[str]:
        """Adds a node of which the first outputs have the model's shape, and the others shapes of their own."""
        names = [self.fresh(kind.lower()) for _ in range(tensors + len(others))]
        self.shapes.update(zip(names[tensors:], others, strict=True))
        scope.nodes.append(helper.make_node(kind, list(inputs), names, name=f"{kind} {names[0]}", **attributes))
        scope.tensors += names[:tensors]
        return names


def _with(shape: Sequence[int], length: int, axis: int) -> tuple[int, ...]:
    """A shape with one more dimension."""
    found = list(shape)
    found.insert(axis % (len(shape) + 1), length)
    return tuple(found)


def _info(name: str, dtype: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))
