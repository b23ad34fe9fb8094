"""RNN, GRU and LSTM as loops of tensor operators.

The input's share of all gates of all steps is one contraction before the loop; a step is the state's share and one
element-wise operator or two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from tilewright.frontend.legalize.activations import sigmoid, softplus
from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, cast, const, maximum, minimum, select

rule = Family()

Activation = Callable[[Expr], Expr]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    def default(given: float | None, otherwise: float) -> float:
        return otherwise if given is None else given

    match name.lower():
        case "sigmoid":
            return sigmoid
        case "relu":
            return lambda x: maximum(x, 0.0)
        case "softsign":
            return lambda x: x / (1.0 + apply("abs", x))
        case "softplus":
            return softplus
        case "affine":
            return lambda x: x * default(alpha, 1.0) + default(beta, 0.0)
        case "leakyrelu":
            return lambda x: select(x < 0.0, x * default(alpha, 0.01), x)
        case "thresholdedrelu":
            return lambda x: select(x > default(alpha, 1.0), x, 0.0)
        case "scaledtanh":
            return lambda x: apply("tanh", x * default(beta, 1.0)) * default(alpha, 1.0)
        case "hardsigmoid":
            return lambda x: maximum(0.0, minimum(1.0, x * default(alpha, 0.2) + default(beta, 0.5)))
        case "elu":
            return lambda x: select(x < 0.0, (apply("exp", x) - 1.0) * default(alpha, 1.0), x)
        case _:
            return lambda x: apply("tanh", x)


@attrs.define
class _Layer:
    """One direction of a recurrent layer.

    Args:
        d: number of the direction.
        functions: the activations, already clipped.
        projected: `[steps, batch, gates·hidden]`, the input's share of the gates with all biases that are added to it.
        at: the step, inside of a body.
    """

    b: Builder
    node: Node
    d: int
    hidden: int
    gates: int
    functions: Sequence[Activation]
    projected: Tensor
    at: Callable[[], Expr] = attrs.field(default=lambda: const(0))

    def entering(self, n: Expr, g: Expr) -> Expr:
        """The input's share of gate element `g` at this step."""
        return self.projected[self.at(), n, g]

    def recurrent(self, h: Tensor, first: int, count: int, name: str) -> Tensor:
        """The state's share of `count` gates, `[batch, count·hidden]`."""
        r, start = self.node[2], first * self.hidden

        def body(n: Expr, g: Expr, k: Expr) -> Expr:
            return h[n, k] * wide(r[self.d, g + start, k])

        return self.b.reduce(h.dtype, (h.shape[0], count * self.hidden), (self.hidden,), "sum", body, name)

    def bias(self, gate: int, j: Expr, recurrent: bool) -> Expr:
        given = self.node.get(3)
        if given is None:
            return const(0, self.projected.dtype)
        offset = (gate + (self.gates if recurrent else 0)) * self.hidden
        return wide(given[self.d, j + offset])


def _steps(node: Node) -> tuple[int, int, bool]:
    """Length of the sequence, batch, and whether the batch comes first."""
    x, batch_first = node[0], bool(node.attr("layout", 0))
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    return steps, batch, batch_first


def _build(
    b: Builder,
    node: Node,
    gates: int,
    defaults: Sequence[str],
    step: Callable[[_Layer, Sequence[Tensor]], Sequence[Tensor]],
    states: int,
    apart: Sequence[int] = (),
) -> list[Tensor | None]:
    """The whole operator.

    Args:
        step: given layer and states `[batch, hidden]`, builds the new states; the first is the output.
        states: how many states there are.
        apart: gates whose recurrent bias is not added to the projection.
    """
    x, w = node[0], node[1]
    steps, batch, batch_first = _steps(node)
    directions, hidden = w.shape[0], w.shape[1] // gates
    carried, out = dtypes.accumulator(x.dtype), x.dtype
    names = list(node.attr("activations", tuple(defaults) * directions))
    alphas, betas = list(node.attr("activation_alpha", ())), list(node.attr("activation_beta", ()))
    clip, lengths = node.attr("clip"), node.get(4)
    kind = node.attr("direction", "forward")
    outputs: list[Tensor] = []
    finals: list[list[Tensor]] = []

    def function(position: int) -> Activation:
        alpha = alphas[position] if position < len(alphas) else None
        beta = betas[position] if position < len(betas) else None
        found = _activation(names[position], alpha, beta)
        if clip is None:
            return found
        return lambda v: found(minimum(maximum(v, -float(clip)), float(clip)))

    for d in range(directions):

        def project(t: Expr, n: Expr, g: Expr, k: Expr, d: int = d) -> Expr:
            return wide(x[(n, t, k) if batch_first else (t, n, k)]) * wide(w[d, g, k])

        plain = b.reduce(carried, (steps, batch, gates * hidden), (x.shape[2],), "sum", project, "input")
        functions = [function(d * len(defaults) + n) for n in range(len(defaults))]
        layer = _Layer(b, node, d, hidden, gates, functions, plain)
        if node.get(3) is not None:

            def biased(t: Expr, n: Expr, g: Expr, layer: _Layer = layer, plain: Tensor = plain) -> Expr:
                total = plain[t, n, g] + layer.bias(0, g, False)
                recurrent = layer.bias(0, g, True)
                for gate in apart:
                    own = (g >= gate * hidden) & (g < (gate + 1) * hidden)
                    recurrent = select(own, const(0, carried), recurrent)
                return total + recurrent

            layer.projected = b.compute(carried, plain.extents, biased, "gates")
        current = [_initial(b, node, d, 5 + n, batch, hidden, carried, batch_first) for n in range(states)]
        backwards = kind == "reverse" or d == 1

        def trip(
            number: Tensor, before: Sequence[Tensor], layer: _Layer = layer, backwards: bool = backwards
        ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            layer.at = lambda: const(steps - 1) - number[()] if backwards else number[()]
            new = list(step(layer, before))
            if lengths is None:
                return new, [new[0]]
            inside = [_until(b, v, old, lengths, layer.at) for v, old in zip(new, before, strict=True)]
            return inside, [_until(b, new[0], None, lengths, layer.at)]

        ends, (rows,) = b.loop(steps, current, trip)
        outputs.append(_reversed(b, rows) if backwards else rows)
        finals.append(ends)
    whole = _stack(b, outputs, out, batch_first) if node.wants(0) else None
    last: list[Tensor | None] = []
    for n in range(states):
        joined = _join(b, [final[n] for final in finals], out, batch_first) if node.wants(1 + n) else None
        last.append(joined)
    return [whole, *last]


def _initial(
    b: Builder, node: Node, d: int, position: int, batch: int, hidden: int, dtype: str, batch_first: bool
) -> Tensor:
    given = node.get(position)
    if given is None:
        return b.compute(dtype, (batch, hidden), lambda n, j: const(0, dtype), "start")
    return b.compute(dtype, (batch, hidden), lambda n, j: wide(given[(n, d, j) if batch_first else (d, n, j)]), "start")


def _until(b: Builder, new: Tensor, old: Tensor | None, lengths: Tensor, at: Callable[[], Expr]) -> Tensor:
    """`new` for sequences that reach the step `at`, otherwise `old` (None: zero)."""

    def body(n: Expr, j: Expr) -> Expr:
        otherwise = const(0, new.dtype) if old is None else old[n, j]
        return select(cast(lengths[n], "int64") > at(), new[n, j], otherwise)

    return b.compute(new.dtype, new.extents, body, "masked")


def _reversed(b: Builder, rows: Tensor) -> Tensor:
    """The rows in the opposite order."""
    steps = rows.shape[0]
    return b.compute(rows.dtype, rows.extents, lambda t, n, j: rows[const(steps - 1) - t, n, j], "turned")


def _stack(b: Builder, outputs: Sequence[Tensor], dtype: str, batch_first: bool) -> Tensor:
    """`[steps, directions, batch, hidden]`, or `[batch, steps, directions, hidden]`."""
    steps, batch, hidden = outputs[0].shape
    directions = len(outputs)
    shape = (batch, steps, directions, hidden) if batch_first else (steps, directions, batch, hidden)

    def body(*i: Expr) -> Expr:
        n, t, d, j = i if batch_first else (i[2], i[0], i[1], i[3])
        found = outputs[-1][t, n, j]
        return found if directions == 1 else select(d <= 0, outputs[0][t, n, j], found)

    return b.compute(dtype, shape, body)


def _join(b: Builder, states: Sequence[Tensor], dtype: str, batch_first: bool) -> Tensor:
    """`[directions, batch, hidden]`, or `[batch, directions, hidden]`."""
    batch, hidden = states[0].shape
    shape = (batch, len(states), hidden) if batch_first else (len(states), batch, hidden)

    def body(*i: Expr) -> Expr:
        n, d, j = i if batch_first else (i[1], i[0], i[2])
        return states[0][n, j] if len(states) == 1 else select(d <= 0, states[0][n, j], states[1][n, j])

    return b.compute(dtype, shape, body)


@rule("RNN")
def _rnn(b: Builder, node: Node) -> list[Tensor | None]:
    def step(layer: _Layer, states: Sequence[Tensor]) -> list[Tensor]:
        h = states[0]
        share = layer.recurrent(h, 0, 1, "state")
        f = layer.functions[0]
        return [b.compute(h.dtype, h.extents, lambda n, j: f(layer.entering(n, j) + share[n, j]), "hidden")]

    return _build(b, node, 1, ("Tanh",), step, 1)


@rule("GRU")
def _gru(b: Builder, node: Node) -> list[Tensor | None]:
    linear = bool(node.attr("linear_before_reset", 0))

    def step(layer: _Layer, states: Sequence[Tensor]) -> list[Tensor]:
        h, size = states[0], layer.hidden
        f, g = layer.functions
        share = layer.recurrent(h, 0, 3 if linear else 2, "state")

        def gate(n: Expr, j: Expr, number: int) -> Expr:
            return f(layer.entering(n, j + number * size) + share[n, j + number * size])

        if linear:

            def candidate(n: Expr, j: Expr) -> Expr:
                own = share[n, j + 2 * size] + layer.bias(2, j, True)
                return g(layer.entering(n, j + 2 * size) + gate(n, j, 1) * own)
        else:
            reset = b.compute(h.dtype, h.extents, lambda n, j: gate(n, j, 1) * h[n, j], "reset")
            last = layer.recurrent(reset, 2, 1, "candidate")

            def candidate(n: Expr, j: Expr) -> Expr:
                return g(layer.entering(n, j + 2 * size) + last[n, j])

        def update(n: Expr, j: Expr) -> Expr:
            z = gate(n, j, 0)
            return (1.0 - z) * candidate(n, j) + z * h[n, j]

        return [b.compute(h.dtype, h.extents, update, "hidden")]

    return _build(b, node, 3, ("Sigmoid", "Tanh"), step, 1, apart=(2,) if linear else ())


@rule("LSTM")
def _lstm(b: Builder, node: Node) -> list[Tensor | None]:
    peepholes, coupled = node.get(7), bool(node.attr("input_forget", 0))

    def step(layer: _Layer, states: Sequence[Tensor]) -> list[Tensor]:
        h, c = states
        size = layer.hidden
        f, g, last = layer.functions
        share = layer.recurrent(h, 0, 4, "state")

        def raw(n: Expr, j: Expr, number: int) -> Expr:
            return layer.entering(n, j + number * size) + share[n, j + number * size]

        def peep(j: Expr, number: int, cell: Expr) -> Expr:
            return cell * 0.0 if peepholes is None else wide(peepholes[layer.d, j + number * size]) * cell

        def gate(n: Expr, j: Expr, number: int, hole: int, cell: Expr) -> Expr:
            value = raw(n, j, number)
            return f(value if peepholes is None else value + peep(j, hole, cell))

        def memory(n: Expr, j: Expr) -> Expr:
            entering = gate(n, j, 0, 0, c[n, j])
            forgetting = 1.0 - entering if coupled else gate(n, j, 2, 2, c[n, j])
            return forgetting * c[n, j] + entering * g(raw(n, j, 3))

        cell = b.compute(c.dtype, c.extents, memory, "cell")
        hidden = b.compute(h.dtype, h.extents, lambda n, j: gate(n, j, 1, 1, cell[n, j]) * last(cell[n, j]), "hidden")
        return [hidden, cell]

    return _build(b, node, 4, ("Sigmoid", "Tanh", "Tanh"), step, 2)
