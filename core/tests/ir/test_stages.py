"""What a model looks like after every stage: golden files of the printed IR, and every stage keeps its laws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilewright.device import DeviceModel, load_device
from tilewright.frontend import import_model
from tilewright.frontend.legalize import builtin_table, legalize
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import Expr, const
from tilewright.ir.module import Module
from tilewright.ir.text import parse_module, print_cover, print_module, print_program
from tilewright.ir.verify import verify_choice, verify_cover, verify_module, verify_program
from tilewright.planning.connect import epilogue
from tilewright.planning.control import identity
from tilewright.planning.cost import roofline
from tilewright.planning.place import host
from tilewright.planning.propose import divisors
from tilewright.planning.schedule import one_kernel
from tilewright.planning.session import Session
from tilewright.planning.staged import make
from tilewright.recipes import Match, Parameter, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec


def model() -> onnx.ModelProto:
    """Two equal blocks of convolution, bias and Relu, then a global mean and Softmax."""
    random = np.random.default_rng(0)
    weights, nodes, last = [], [], "image"
    for i in range(2):
        data = random.standard_normal((4, 4, 3, 3)).astype(np.float32)
        weights += [numpy_helper.from_array(data, f"w{i}"), numpy_helper.from_array(data[0, :, 0, 0].copy(), f"b{i}")]
        nodes.append(helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        last = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    nodes.append(helper.make_node("Softmax", ["flat"], ["out"], axis=1))
    graph = helper.make_graph(
        nodes,
        "stages",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def any_kernel(spec: KernelSpec, device: DeviceModel) -> Match:
    """Blocks of the flattened output, for whatever kernel."""
    points: Expr = const(1)
    for axis in spec.spatial:
        points = points * axis.extent
    size = int(points.value)  # type: ignore[attr-defined]
    block = Parameter("block", tuple(x for x in (1, 2, 4, 8, 16) if size % x == 0), role="m", level="block")
    axes = {"m": tuple(x.name for x in spec.spatial)}
    usage = Usage(tasks=const(size) // block.var, threads=const(32))
    return Match("test.any", axes, {"m": size}, (block,), (), usage, Work(const(size), {}))


@pytest.fixture(scope="module")
def session() -> tuple[Module, Module, Session]:
    table = builtin_table()
    imported = import_model(model(), {}, table=table)
    module = legalize(imported, table)
    services = {
        "control_rewrite": identity(),
        "connect": epilogue.make(),
        "propose": divisors.make(),
        "cost": roofline.make(),
        "schedule": one_kernel.make(),
        "control_place": host.make(),
    }
    recipe = Recipe("test.any", "cuda", any_kernel)
    device = load_device("h200")
    planner = Session(
        target="cuda:h200", device=device, recipes=[recipe], services=services, constants=frozenset(module.constants)
    )
    return imported, module, planner


def test_stages(session: tuple[Module, Module, Session], golden: Callable[[str, str], None]) -> None:
    imported, module, planner = session
    golden("stage.1.imported.txt", print_module(imported))
    verify_module(imported)
    golden("stage.2.legalized.txt", print_module(module))
    verify_module(module)
    assert print_module(parse_module(print_module(module), module.constants)).count("tensor") == len(
        module.main.body.ops
    )
    cover = planner.connect(module.main.body)
    golden("stage.3.connected.txt", print_cover(cover))
    verify_cover(cover)
    for group in cover.groups:
        (match,) = planner.matches(group)
        for choice in planner.propose(group):
            verify_choice(choice, match, planner.device)
    program = make()(module, planner)
    golden("stage.4.planned.txt", print_program(program))
    verify_program(program, planner.device)
    image = np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)
    for seed in range(4):
        np.testing.assert_array_equal(run_tasks(program, [image], seed)[0], interpret(module, [image])[0])


def test_equal_blocks_share_a_kernel(session: tuple[Module, Module, Session]) -> None:
    _, module, planner = session
    groups = planner.connect(module.main.body).groups
    keys = [planner.canonical(g).key for g in groups]
    convolutions = [k for g, k in zip(groups, keys, strict=True) if g.ops[0].loc.op_type == "Conv"]
    assert len(convolutions) == 2
    assert convolutions[0] == convolutions[1]
    assert len(set(keys)) == len(keys) - 1
