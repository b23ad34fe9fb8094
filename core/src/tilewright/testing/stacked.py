"""Models of random stacked recurrences: each reads, row by row, what the one before collects.

Every choice comes from the seed: how many layers and steps there are, whether a layer is an LSTM, a GRU, a Scan or a
Loop, what stands between two of them, and who else reads a layer's rows or last state. Values are small integers in
Loops and Scans, so their sums are exact in any order.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.testing.cases import Case

FLOAT = TensorProto.FLOAT


def stacked_case(seed: int, gated: bool = False) -> Case:
    """One model and its input.

    Args:
        gated: whether layers may be LSTMs and GRUs.
    """
    return _Writer(seed, gated).case()


class _Writer:
    def __init__(self, seed: int, gated: bool) -> None:
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.seed, self.gated = seed, gated
        self.steps, self.batch, self.width = (self.random.choice(x) for x in ((2, 3, 6), (1, 2), (3, 4)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    @property
    def row(self) -> tuple[int, int]:
        return self.batch, self.width

    def case(self) -> Case:
        shape = (self.steps, *self.row)
        rows, outputs = "x", list[tuple[str, tuple[int, ...]]]()
        for _ in range(self.random.randint(2, 5)):
            rows, last = self.layer(rows)
            if self.random.random() < 0.3:
                outputs.append((last, self.row))
            if self.random.random() < 0.2:
                outputs.append((rows, shape))
            rows = self.between(rows)
        outputs.append((self.op("Neg", rows), shape))
        graph = helper.make_graph(
            self.nodes,
            f"stacked_{self.seed}",
            [helper.make_tensor_value_info("x", FLOAT, shape)],
            [helper.make_tensor_value_info(name, FLOAT, dims) for name, dims in dict.fromkeys(outputs)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return Case(graph.name, model, {"x": self.data(*shape)})

    def fresh(self, hint: str) -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def data(self, *shape: int) -> Any:
        return self.rng.integers(-2, 3, shape).astype(np.float32)

    def const(self, data: Any) -> str:
        name = self.fresh("w")
        self.weights.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def op(self, kind: str, *inputs: str, nodes: list[onnx.NodeProto] | None = None, **attributes: Any) -> str:
        name = self.fresh(kind.lower())
        (self.nodes if nodes is None else nodes).append(helper.make_node(kind, [*inputs], [name], name, **attributes))
        return name

    def between(self, rows: str) -> str:
        """What stands between two layers: an operator that works on each row alone, or one that does not."""
        match self.random.choice(["none", "bias", "product", "view", "turned", "across"]):
            case "bias":
                return self.op("Add", rows, self.const(self.data(self.width)))
            case "product":
                return self.squashed(self.op("MatMul", rows, self.const(self.data(self.width, self.width))))
            case "view":
                flat = self.op("Unsqueeze", rows, self.const([1]))
                return self.op("Squeeze", self.op("Neg", flat), self.const([1]))
            case "turned":
                turned = self.op("Transpose", rows, perm=[1, 0, 2])
                return self.op("Transpose", self.op("Neg", turned), perm=[1, 0, 2])
            case "across" if self.random.random() < 0.4:
                mean = self.op("ReduceMax", rows, self.const([0]), keepdims=1)
                return self.op("Sub", rows, mean)
        return rows

    def squashed(self, x: str, nodes: list[onnx.NodeProto] | None = None) -> str:
        """Between -4 and 4, and exact."""
        low, high = self.const(np.float32(-4)), self.const(np.float32(4))
        return self.op("Clip", x, low, high, nodes=nodes)

    def layer(self, rows: str) -> tuple[str, str]:
        """The rows that a layer collects, and its last state."""
        kind = self.random.choice(["Loop", "Loop", "Scan", *(["LSTM", "GRU"] * 2 if self.gated else [])])
        if kind in ("LSTM", "GRU"):
            return self.gates(kind, rows)
        start = self.const(self.data(*self.row))
        number, going, state, row = map(self.fresh, ("number", "going", "state", "row"))
        nodes: list[onnx.NodeProto] = []
        given = row if kind == "Scan" else self.op("Gather", rows, number, axis=0, nodes=nodes)
        both = self.op("Sub", given, state, nodes=nodes)
        if self.random.random() < 0.5:
            both = self.op("MatMul", both, self.const(self.data(self.width, self.width)), nodes=nodes)
        after = self.squashed(both, nodes)
        collected = after if self.random.random() < 0.5 else self.op("Neg", after, nodes=nodes)
        if self.random.random() < 0.1:
            collected = self.op("Identity", state, nodes=nodes)
        collected = self.op("Identity", collected, nodes=nodes)
        results = [helper.make_tensor_value_info(x, FLOAT, self.row) for x in (after, collected)]
        params = [helper.make_tensor_value_info(state, FLOAT, self.row)]
        end, out = self.fresh("end"), self.fresh("rows")
        if kind == "Scan":
            params.append(helper.make_tensor_value_info(row, FLOAT, self.row))
            body = helper.make_graph(nodes, self.fresh("body"), params, results)
            self.nodes.append(helper.make_node("Scan", [start, rows], [end, out], end, body=body, num_scan_inputs=1))
        else:
            on = self.op("Identity", going, nodes=nodes)
            first = [
                helper.make_tensor_value_info(number, TensorProto.INT64, ()),
                helper.make_tensor_value_info(going, TensorProto.BOOL, ()),
            ]
            goes = helper.make_tensor_value_info(on, TensorProto.BOOL, ())
            body = helper.make_graph(nodes, self.fresh("body"), [*first, *params], [goes, *results])
            trips = self.const(np.int64(self.steps))
            self.nodes.append(helper.make_node("Loop", [trips, "", start], [end, out], end, body=body))
        return out, end

    def gates(self, kind: str, rows: str) -> tuple[str, str]:
        count, width = (4 if kind == "LSTM" else 3), self.width
        shapes = ((1, count * width, width), (1, count * width, width), (1, 2 * count * width))
        given = [self.const(self.rng.standard_normal(x).astype(np.float32)) for x in shapes]
        out, last = self.fresh("y"), self.fresh("h")
        self.nodes.append(helper.make_node(kind, [rows, *given], [out, last], out, hidden_size=width))
        one, zero = self.const([1]), self.const([0])
        return self.op("Squeeze", out, one), self.op("Squeeze", last, zero)
