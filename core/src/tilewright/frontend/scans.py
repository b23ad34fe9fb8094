"""`Scan` as a loop that gathers its rows and collects its results."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend import fold
from tilewright.frontend.loops import Loops
from tilewright.ir.ops import Value, value


@attrs.frozen
class Scans(Loops):
    """A `Scan`."""

    def scan(self, inputs: Sequence[Value | None]) -> list[Value]:
        """The outputs of a `Scan`."""
        if self.scope.opsets[""] >= 9:
            return self._scan(self.states(inputs), self.node.output)
        if inputs[0] is not None:
            raise UnsupportedError(
                f"{self.what} has lengths of sequences.", "Export it with opset 9 or later, which has none."
            )
        given = self.states(inputs[1:])
        batch = given[0].static_shape()[0] if given[0].rank else 1
        rows = []
        for number in range(batch):
            at = self.int64(number)
            rows.append(self._scan([self.emit("Gather", [x, at], "element", axis=0) for x in given], self.node.output))
        return self.stack(rows)

    def _scan(self, given: Sequence[Value], wanted: Sequence[str]) -> list[Value]:
        """One scan, without a batch."""
        graph = fold.attribute(self.node, "body")
        count = fold.attribute(self.node, "num_scan_inputs")
        states, scanned = list(given[:-count]), list(given[-count:])
        opset8 = self.scope.opsets[""] < 9
        backwards = fold.attribute(self.node, "directions" if opset8 else "scan_input_directions", [0] * count)
        axes = [
            axis % x.rank
            for axis, x in zip(fold.attribute(self.node, "scan_input_axes", [0] * count), scanned, strict=True)
        ]
        lengths = {x.static_shape()[axis] for x, axis in zip(scanned, axes, strict=True)}
        if len(lengths) != 1:
            raise InputError(f"{self.what} scans tensors of different lengths {sorted(lengths)}.", "Repair the model.")
        (length,) = lengths
        if length == 0:
            kinds = [
                attrs.evolve(x, shape=tuple(n for d, n in enumerate(x.shape) if d != axis))
                for x, axis in zip(scanned, axes, strict=True)
            ]
            rows = [self.fresh(x.name, kind) for x, kind in zip(scanned, kinds, strict=True)]
            params = [*(self.fresh(x.name, x) for x in states), *rows]
            return self._finished(self.never(graph, params, states, 0), len(states), wanted)
        params = [
            self.fresh("trip", value("", "int64", [])),
            self.fresh("going", value("", "bool", [])),
            *(self.fresh(x.name, x) for x in states),
        ]

        def body() -> list[Value]:
            rows = []
            for x, axis, reverse in zip(scanned, axes, backwards, strict=True):
                at = self.emit("Sub", [self.int64(length - 1), params[0]], "at") if reverse else params[0]
                rows.append(self.emit("Gather", [x, at], "row", axis=axis))
            return [params[1], *self.tensors(self.inline(graph, [*params[2:], *rows]))]

        region = self.region(params, body)
        self.check_results(region, len(states))
        if self.changes(region, len(states)):
            self.refuse_growth(region, len(states))
        outputs = self.build(region, states, trip=None, count=length, condition=None)
        return self._finished(outputs, len(states), wanted)

    def _finished(self, outputs: list[Value], states: int, wanted: Sequence[str]) -> list[Value]:
        """The outputs of the node, of which the collected ones stand in the order of the trips."""
        opset8 = self.scope.opsets[""] < 9
        collected = len(outputs) - states
        wanted = [*wanted, *[""] * (len(outputs) - len(wanted))]
        reverses = [0] * collected if opset8 else fold.attribute(self.node, "scan_output_directions", [0] * collected)
        targets = fold.attribute(self.node, "scan_output_axes", [0] * collected)
        for n, (reverse, axis) in enumerate(zip(reverses, targets, strict=True), states):
            if wanted[n]:
                outputs[n] = self._turned(outputs[n], bool(reverse), axis)
        return outputs

    def _turned(self, rows: Value, reverse: bool, axis: int) -> Value:
        """Collected rows in the order and along the dimension that the node says."""
        if reverse:
            order = np.arange(rows.static_shape()[0])[::-1]
            rows = self.emit("Gather", [rows, self.int64(order.copy())], "reversed", axis=0)
        order_of = list(range(1, rows.rank))
        order_of.insert(axis % rows.rank, 0)
        if order_of != sorted(order_of):
            rows = self.emit("Transpose", [rows], "turned", perm=order_of)
        return rows
