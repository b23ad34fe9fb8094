"""`Flow`: ONNX graphs with loops and branches, whose weights have names by which other engines take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.ir.module import Module
from tilewright.testing.models.net import Array, Net

Type = tuple[int, tuple[int, ...]]
"""ONNX's element type, and a shape."""
SCALAR: Type = (TensorProto.INT64, ())


def floats(*shape: int) -> Type:
    """The type of a float32 tensor."""
    return TensorProto.FLOAT, shape


def integers(*shape: int) -> Type:
    """The type of an int64 tensor."""
    return TensorProto.INT64, shape


@dataclass(frozen=True)
class Given:
    """A model with control flow, and what its other formulations are made of.

    Attributes:
        model: for us and ONNX Runtime; a module where ONNX cannot say it.
        feeds: inputs by name, in the order of the twins' parameters.
        params: weights by name.
        sizes: numbers that the formulations need.
    """

    name: str
    model: onnx.ModelProto | Module
    feeds: Mapping[str, Array]
    params: Mapping[str, Array]
    sizes: Mapping[str, Any] = field(default_factory=dict)


class Flow(Net):
    """A graph under construction with regions inside.

    Attributes:
        params: the named weights.
    """

    def __init__(self, name: str, seed: int, **sizes: Any) -> None:
        super().__init__(name, seed, opset=18)
        self.params: dict[str, Array] = {}
        self.sizes = sizes

    def param(self, name: str, *shape: int, scale: float | None = None) -> str:
        """A random weight with a name; by default its variance is one over its last dimension but one."""
        fan_in = shape[-2] if len(shape) > 1 else shape[0]
        factor = fan_in**-0.5 if scale is None else scale
        return self.given(name, (self.rng.standard_normal(shape) * factor).astype(np.float32))

    def given(self, name: str, data: Array) -> str:
        """A weight with a name and contents."""
        self.params[name] = data
        self._weights.append(numpy_helper.from_array(data, name))
        return name

    def loop(
        self,
        trips: int,
        starts: Sequence[tuple[str, Type]],
        body: Callable[..., tuple[str | None, Sequence[str], Sequence[tuple[str, Type]]]],
    ) -> list[str]:
        """At most `trips` trips; the states after the last one, then what was collected.

        Args:
            body: called with the trip's number and the states; gives the condition for another trip (None: true), the
                new states, and what is collected.
        """
        number, going = self._fresh("number"), self._fresh("going")
        states = [self._fresh("state") for _ in starts]
        outside, self._nodes = self._nodes, []
        on, after, rows = body(number, *states)
        results = [self.op("Identity", x) for x in (on or going, *after, *(name for name, _ in rows))]
        kinds: list[Type] = [(TensorProto.BOOL, ()), *(kind for _, kind in starts), *(kind for _, kind in rows)]
        params = _infos([number, going, *states], [SCALAR, (TensorProto.BOOL, ()), *(x for _, x in starts)])
        graph = helper.make_graph(self._nodes, self._fresh("body"), params, _infos(results, kinds))
        self._nodes = outside
        given = [self.const(np.int64(trips)), self.const(np.asarray(True)), *(name for name, _ in starts)]
        return self._several("Loop", given, len(starts) + len(rows), body=graph)

    def cond(self, condition: str, kind: Type, then: Callable[[], str], orelse: Callable[[], str]) -> str:
        """The result of one of two regions."""
        graphs = []
        for side in (then, orelse):
            outside, self._nodes = self._nodes, []
            result = self.op("Identity", side())
            graphs.append(helper.make_graph(self._nodes, self._fresh("side"), [], _infos([result], [kind])))
            self._nodes = outside
        return self._several("If", [condition], 1, then_branch=graphs[0], else_branch=graphs[1])[0]

    def _several(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        found = self.op(kind, *inputs, count=count, **attributes)
        return [found] if count == 1 else list(found)

    def finish(self, outputs: Mapping[str, tuple[str, Type]]) -> Given:
        """The model, with outputs given as {name: (value, type)}; inference does not know the shapes of states."""
        case = self.case({name: value for name, (value, _) in outputs.items()})
        del case.model.graph.output[:]
        case.model.graph.output.extend(_infos([*outputs], [kind for _, kind in outputs.values()]))
        return Given(self.name, case.model, case.feeds, self.params, self.sizes)


def _infos(names: Sequence[str], kinds: Sequence[Type]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, *kind) for name, kind in zip(names, kinds, strict=True)]


def lstm_cell(net: Flow, x: str, h: str, c: str, w: str, u: str, b: str) -> tuple[str, str]:
    """New hidden state and cell from `x·w + h·u + b`, whose columns are input, forget, cell and output gates."""
    return lstm_gates(net, net.op("Add", net.op("Add", net.op("MatMul", x, w), net.op("MatMul", h, u)), b), c)


def lstm_gates(net: Flow, total: str, c: str) -> tuple[str, str]:
    """New hidden state and cell from the sums of the gates."""
    i, f, g, o = net.op("Split", total, count=4, axis=-1, num_outputs=4)
    kept = net.op("Mul", net.op("Sigmoid", f), c)
    cell = net.op("Add", kept, net.op("Mul", net.op("Sigmoid", i), net.op("Tanh", g)))
    return net.op("Mul", net.op("Sigmoid", o), net.op("Tanh", cell)), cell
