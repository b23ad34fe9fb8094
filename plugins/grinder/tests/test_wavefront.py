"""Stacked recurrences as one loop: random ones, and the layers that the technique is for."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from plugins.grinder.tests.rewriting import EAGER, edited, equal, kinds
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import const
from tilewright.ir.module import Module
from tilewright.ir.ops import Loop, TensorOp
from tilewright.testing.stacked import stacked_case
from tilewright_grinder.control_rewrite import rewritten
from tilewright_grinder.options import GrinderOptions

SKEWED = GrinderOptions(unroll=0, wavefront="always")


def check(seed: int, gated: bool) -> int:
    """How many loops there are less."""
    case = stacked_case(seed, gated)
    module = load(case.model)
    made, notes = edited(module, rewritten, SKEWED)
    found, wanted = (interpret(x, [case.feeds["x"]]) for x in (made, module))
    if gated:
        # NumPy adds up the products of one row in another order than those of all.
        np.testing.assert_allclose(found[-1], wanted[-1], atol=1e-5, err_msg=str(notes.found))
    else:
        assert equal(found, wanted), (seed, notes.found)
    return kinds(module).count(Loop) - kinds(made).count(Loop)


@pytest.mark.parametrize("gated", [False, True])
def test_random_stacks_compute_the_same_in_fewer_loops(gated: bool) -> None:
    saved = [check(seed, gated) for seed in range(40)]
    assert sum(x > 0 for x in saved) >= 25
    assert max(saved) == 4, "five layers in one loop"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(40, 240, 100))
def test_many_random_stacks_compute_the_same(start: int) -> None:
    for seed in range(start, start + 100):
        check(seed, seed % 2 == 0)


def test_eager_unrolling_of_stacks_keeps_every_bit() -> None:
    for seed in range(8):
        case = stacked_case(seed)
        module = load(case.model)
        made, _ = edited(module, rewritten, EAGER)
        assert Loop not in kinds(made)
        assert equal(interpret(made, [case.feeds["x"]]), interpret(module, [case.feeds["x"]]))


def lstm(layers: int, steps: int, width: int, *, reverse: int = -1) -> Module:
    """LSTMs on each other; the layer `reverse` goes through the steps backwards."""
    rng = np.random.default_rng(0)
    nodes, weights, rows = [], [numpy_helper.from_array(np.asarray([1]), "one")], "x"
    for n in range(layers):
        for kind in "WR":
            data = rng.standard_normal((1, 4 * width, width)).astype(np.float32) / np.float32(np.sqrt(width))
            weights.append(numpy_helper.from_array(data, f"{kind}{n}"))
        direction = "reverse" if n == reverse else "forward"
        given = [rows, f"W{n}", f"R{n}"]
        nodes.append(helper.make_node("LSTM", given, [f"Y{n}"], hidden_size=width, direction=direction))
        nodes.append(helper.make_node("Squeeze", [f"Y{n}", "one"], [f"rows{n}"]))
        rows = f"rows{n}"
    shape = (steps, 1, width)
    info = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape) for x in ("x", rows)]
    graph = helper.make_graph(nodes, "layers", info[:1], info[1:], weights)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def loops(module: Module) -> list[Loop]:
    return [x for x in module.main.body.ops if isinstance(x, Loop)]


def test_ten_layers_of_64_steps_are_one_loop_of_73_trips_on_a_gpu() -> None:
    made, _ = edited(lstm(10, 64, 256), rewritten, GrinderOptions())
    (loop,) = loops(made)
    assert loop.count == const(73)
    assert sum(x.combiner is not None for x in loop.body.ops if isinstance(x, TensorOp)) == 10 + 9, (
        "ten products with states, and those with inputs that came from below"
    )


def test_what_is_not_predicted_to_save_time_stays() -> None:
    """Two layers, two wide steps: a trip takes the time of its products, and there are three instead of two."""
    module = lstm(2, 2, 2048)
    assert len(loops(edited(module, rewritten, GrinderOptions(unroll=0))[0])) == 2
    assert len(loops(edited(module, rewritten, SKEWED)[0])) == 1


def test_a_layer_that_goes_backwards_ends_a_chain() -> None:
    """It needs the last row first, so neither it nor the one above can start before all rows are there."""
    made, _ = edited(lstm(5, 6, 4, reverse=2), rewritten, SKEWED)
    assert [x.count for x in loops(made)] == [const(7), const(6), const(7)]
