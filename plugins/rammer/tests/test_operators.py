"""rOperators: what they depend on, and which kernels can be among them."""

from __future__ import annotations

import attrs
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from plugins.rammer.tests.fakes import planned
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.device import load_device
from tilewright.frontend import load
from tilewright.ir.choice import Resources
from tilewright.planning.requests import Planned
from tilewright.planning.session import Session
from tilewright.plugins.manager import Registry
from tilewright.recipes import Recipe
from tilewright.testing import conformance
from tilewright_rammer.members import excluded
from tilewright_rammer.operators import operators_of
from tilewright_rammer.vdevice import rooms_of


def session() -> Session:
    recipes = [Recipe("fake", "cuda", lambda *_: None), Recipe("alone", "cuda", lambda *_: None, embeddable=False)]
    return Session("cuda:h200", load_device("h200"), recipes, {"propose": lambda *_: ()}, frozenset({"w"}))


def test_values_order_operators() -> None:
    """Reads after writes; a value that is written again after who reads it, and after who wrote it."""
    kernels = [
        planned("a", ["x"], ["s"]),
        planned("b", ["s"], ["t"]),
        planned("c", ["x", "w"], ["s"]),
        planned("d", ["s", "t"], ["u", "v"]),
    ]
    found = operators_of(kernels, session(), lambda choice: choice.cost, 0.5)
    assert [(x.seconds, x.least) for x in found] == [(1.0, 0.5)] * 4
    assert [set(x.before) for x in found] == [set(), {0}, {0, 1}, {1, 2}]
    assert [dict(x.weights) for x in found] == [{}, {}, {"w": 4}, {}]


def needing(item: Planned, recipe: str = "fake", **needs: int) -> Planned:
    resources = attrs.evolve(Resources(4, 128, 64, 1024), **needs)
    kernel = attrs.evolve(item.kernel, choice=attrs.evolve(item.kernel.choice, recipe=recipe, resources=resources))
    return attrs.evolve(item, kernel=kernel)


def test_what_cannot_be_merged_says_why() -> None:
    """An H200 holds 132 blocks of 1024 threads with 64 registers: 256 tasks are more than it runs at a time."""
    one = planned("a", ["x"], ["y"])
    kernels = [needing(one), needing(one, "alone"), needing(one, tasks=256, threads=1024, registers=64), needing(one)]
    why = excluded(kernels, session())
    assert [bool(x) for x in why] == [False, True, True, False]
    assert "recipe alone" in why[1]
    assert "256 tasks fill the device, which runs 132" in why[2]


def test_kernels_that_no_unit_could_hold_together_are_parted() -> None:
    """512 threads with 255 registers each are too many: the cheaper kind has launches of its own."""
    one, dear = planned("a", ["x"], ["y"]), planned("b", ["x"], ["z"], cost=5.0)
    kernels = [needing(one, threads=512, registers=32), needing(dear, threads=128, registers=255), needing(one)]
    why = excluded(kernels, session())
    assert [bool(x) for x in why] == [True, False, False]
    assert "no unit has room for its 512 threads of 32 registers" in why[0]


def _model() -> onnx.ModelProto:
    w = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Softmax", ["t"], ["y"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, [8, 64])], [info("y", 1, [8, 64])], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cuda:h200"])
def test_weights_are_known_packed_or_not(target: str) -> None:
    module = load(_model())
    settings = bind(Config(target=target), Registry())
    made = conformance.session_of(settings, module)
    kernels = [made.plan(x) for x in made.connect(module.main.body).groups]
    found = operators_of(kernels, made, lambda choice: choice.cost, 0.0)
    assert sum(found[0].weights.values()) >= 64 * 64 * 4
    assert all(x.before for x in found[1:])


def test_a_gpu_has_room_for_one_unit_each_or_for_as_many_as_fit() -> None:
    """Of 132 multiprocessors with 65,536 registers each."""
    h200 = load_device("h200")
    needs = [Resources(4, 128, 64, 1024), Resources(4, 64, 30, 0)]
    one, most = rooms_of(h200, needs, 10)
    assert (one.units, one.threads, one.shared_bytes) == (132, 1024, h200.shared_per_block)
    assert (most.units, most.threads, most.registers) == (132 * 8, 128, 64)
    assert rooms_of(h200, needs, 100_000) == [one], "units take turns, and so many operators would take too long"
    (heavy,) = rooms_of(h200, [Resources(4, 512, 100)], 10)
    assert heavy.threads == 608, "more would not have 104 registers"
