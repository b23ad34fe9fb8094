"""`explain --svg`: every kernel once, what passes between kernels with its bytes, what is welded inside."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, shape_inference

from tests.product.models import save_model
from tilewright.api import settings_for
from tilewright.builder import ModuleBuilder
from tilewright.compiler import Plan, plan_model
from tilewright.ir.expr import const
from tilewright.ir.program import (
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Lane,
    Launch,
    Phase,
    host_leaves,
    launches,
)
from tilewright.ir.verify.tree import tasks_of
from tilewright.pictures import Graph, draw, graph_of
from tilewright.sizes import size_text
from tilewright.testing.control import control_case
from tilewright.testing.models import BUILDERS

Tw = Callable[..., Any]
SVG = "{http://www.w3.org/2000/svg}"
CONNECTORS = ("epilogue", "singletons", "welder")


def planned(model: Any, connect: str = "epilogue", target: str = "cuda:h200") -> Plan:
    return plan_model(model, settings_for(target, {"slots": {"connect": connect}}))


def graph(plan: Plan) -> Graph:
    return graph_of(plan.program, plan.decisions)


def of_class(svg: str, name: str) -> list[ElementTree.Element]:
    return [x for x in ElementTree.fromstring(svg).iter() if name in x.get("class", "").split()]


def texts(element: ElementTree.Element) -> list[str]:
    return [x.text or "" for x in element.iter(f"{SVG}text")]


@pytest.fixture
def welds(tmp_path: Path) -> Path:
    """y = softmax(x @ w) @ v + bias, z = relu of the same."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    random = np.random.default_rng(0)
    weights = {"w": random.random((6, 8), "f4"), "v": random.random((8, 300), "f4"), "bias": random.random(300, "f4")}
    return save_model(tmp_path / "welds.onnx", nodes, {"x": (4, 6)}, {"y": (4, 300), "z": (4, 300)}, weights)


def test_numbers_that_are_worked_out_by_hand(tw: Tw, welds: Path, tmp_path: Path) -> None:
    config = tmp_path / "singletons.toml"
    config.write_text('schema = 1\n[slots]\nconnect = "singletons"\n')
    file = tmp_path / "picture.svg"
    result = tw("explain", welds, "--target", "cuda:h200", "--config", config, "--svg", file, "--json")
    assert result.code == 0, result.err
    svg = file.read_text()
    boxes = of_class(svg, "kernel")
    assert json.loads(result.out) == {"svg": str(file), "kernels": len(boxes)}
    names = [next(x.text for x in box.iter(f"{SVG}text") if x.get("class") == "name") for box in boxes]
    assert [x for x in names if not x.startswith("weights")] == ["scores", "sum", "y", "z"]
    between = {
        (names[int(x.get("data-source", ""))], names[int(x.get("data-target", ""))]): int(x.get("data-bytes", ""))
        for x in of_class(svg, "edge")
    }
    assert between.pop(("sum", "y")) == 4 * 300 * 4
    assert between.pop(("y", "z")) == 4 * 300 * 4
    assert between.pop(("weights", "sum")) == 4 * 8 * 4
    # Inside of the softmax pass a row's maximum and sum, or all scores and what becomes of them.
    assert set(between.values()) == {4 * 4, 4 * 8 * 4}
    assert texts(boxes[0])[3:7] == ["reads x", "96 B", "weights", "192 B"]
    assert [x for box in boxes for x in texts(box) if x.startswith("makes")] == ["makes y", "makes z"]


def test_a_weld_is_inside_of_its_box(tw: Tw, welds: Path, tmp_path: Path) -> None:
    config = tmp_path / "welder.toml"
    config.write_text('schema = 1\n[slots]\nconnect = "welder"\n')
    file = tmp_path / "picture.svg"
    assert tw("explain", welds, "--target", "cuda:h200", "--config", config, "--svg", file).code == 0
    svg = file.read_text()
    program = planned(str(welds), "welder").program
    levels = Counter(level for x in program.kernels.values() for _, level in x.group.levels)
    assert levels["shared"]
    assert of_class(svg, "shared")
    assert len({x.get("stroke") for x in of_class(svg, "inner")}) == len(levels)
    assert {int(x.get("data-bytes", "")) for x in of_class(svg, "shared")} <= {4 * 4, 4 * 8 * 4}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("connect", CONNECTORS)
@pytest.mark.parametrize("name", ["bert", "swin"])
def test_pictures_of_blocks(name: str, connect: str) -> None:
    """Kernels against the program's launches, bytes and kinds of operators against ONNX."""
    model = BUILDERS[name]().model
    plan = planned(model, connect)
    svg = draw(graph(plan), name)
    assert svg == draw(graph(planned(model, connect)), name)
    steps = launches(plan.program.steps)
    boxes = of_class(svg, "kernel")
    assert [x.get("id") for x in boxes] == [f"kernel-{i}" for i in range(len(steps))]
    assert [box.name for box in graph(plan).boxes] == [x.name for x in steps]
    assert len(of_class(svg, "edge")) == len({(x.source, x.target) for x in graph(plan).edges})

    kinds = {plain(output): node.op_type for node in model.graph.node for output in node.output}
    groups = {x.subject for x in plan.decisions if x.slot == "propose"}
    joined = {x.subject: x.chosen for x in plan.decisions if x.slot == "connect" and isinstance(x.chosen, dict)}
    told = {name for name, chosen in joined.items() if chosen["kernel"] in groups}
    drawn = [op for box in graph(plan).boxes for op in box.operators]
    assert sorted(x.name for x in drawn) == sorted(told)
    assert all(kinds.get(x.name, x.kind) == x.kind for x in drawn)
    assert any(x.name in kinds for x in drawn)

    sizes = onnx_sizes(model)
    checked = 0
    for edge in graph(plan).edges:
        written = {x for task in tasks_of(steps[edge.source].body) for x in task.args}
        read = {x for task in tasks_of(steps[edge.target].body) for x in task.args}
        for value in edge.values:
            assert value.name in written & read
            if value.name in sizes:
                assert value.bytes == sizes[value.name]
                checked += 1
    assert checked >= 5


def plain(name: str) -> str:
    """How a plan writes a name of the model."""
    return re.sub(r"\W", "_", name).lstrip("_")


def onnx_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of every value whose shape ONNX infers."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    found = {}
    for info in (*inferred.value_info, *inferred.output):
        shape = [x.dim_value for x in info.type.tensor_type.shape.dim]
        size = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).itemsize
        found[plain(info.name)] = math.prod(shape) * size
    return found


class Run:
    """One way through a program whose loops and branches are drawn: who read what whom wrote, step by step."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.program, self.random = plan.program, random.Random(seed)
        leaves = [x for x in host_leaves(plan.program.steps) if isinstance(x, Launch | HostCall)]
        self.numbers = {id(x): i for i, x in enumerate(leaves)}
        self.edges: set[tuple[int, int, str]] = set()
        self.writers: dict[str, set[int]] = {}
        self.steps(plan.program.body)

    def steps(self, steps: Iterable[HostStep]) -> None:
        for step in steps:
            match step:
                case Launch():
                    for task in tasks_of(step.body):
                        outputs = len(self.program.kernels[task.kernel].group.outputs)
                        self.use(self.numbers[id(step)], task.args[:-outputs], task.args[-outputs:])
                case HostCopy(row=None):
                    self.writers[step.target] = set(self.writers.get(step.source, ()))
                case HostCopy():
                    self.writers[step.target] = self.writers.get(step.target, set()) | self.writers.get(
                        step.source, set()
                    )
                case HostSet():
                    self.writers[step.target] = set()
                case HostLoop():
                    for _ in range(self.random.randint(0, 3)):
                        self.steps(step.body)
                case HostIf():
                    self.steps(step.then if self.random.random() < 0.5 else step.orelse)

    def use(self, number: int, reads: Sequence[str], writes: Sequence[str]) -> None:
        self.edges |= {(source, number, name) for name in reads for source in self.writers.get(name, ())}
        self.writers |= {name: {number} for name in writes}


@pytest.mark.parametrize("seed", range(12, 32))
def test_what_passes_through_loops_and_branches(seed: int) -> None:
    """The edges are what many runs, each with its own trips and branches, hand over."""
    plan = planned(control_case(seed).model, target="cpu")
    found = graph(plan)
    happened = set().union(*(Run(plan, i).edges for i in range(400)))
    assert {(e.source, e.target, x.name) for e in found.edges for x in e.values} == happened
    assert all(e.carried or e.source < e.target for e in found.edges)
    svg = draw(found, "control")
    assert len(of_class(svg, "kernel")) == len(launches(plan.program.steps))
    assert all("if" in x or "else" in x or "loop" in x for x in [s.text or "" for s in of_class(svg, "scope")])


def test_what_goes_round_a_loop_is_marked() -> None:
    """Three states move up by one place with each trip; the last is computed of the first."""
    info, boolean = helper.make_tensor_value_info, TensorProto.BOOL
    state = [info(x, TensorProto.FLOAT, [5]) for x in ("a", "b", "c")]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Sin", ["a"], ["new"]),
            helper.make_node("CumSum", ["new", "axis"], ["last"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("on", boolean, []), *state],
        [info("still", boolean, []), *(info(x, TensorProto.FLOAT, [5]) for x in ("b", "c", "last"))],
        [onnx.numpy_helper.from_array(np.int64(0).reshape(()), "axis")],
    )
    outer = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "x", "x", "x"], ["p", "q", "r"], body=body)],
        "outer",
        [info("x", TensorProto.FLOAT, [5])],
        [info(x, TensorProto.FLOAT, [5]) for x in ("p", "q", "r")],
        [onnx.numpy_helper.from_array(np.int64(9).reshape(()), "trips")],
    )
    plan = planned(helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    found = graph(plan)
    names = [x.name for x in found.boxes]
    assert names == [x.name for x in launches(plan.program.steps)]
    # The loop takes two trips at once, the second of which is called odd.
    assert {(names[e.source], names[e.target], e.bytes) for e in found.edges if e.carried} == {
        ("b_moved.odd.i", "new", 20),
        ("c_moved.odd.i", "b_moved", 20),
        ("last.odd.i", "c_moved", 20),
    }
    assert {x.scopes for x in found.boxes if x.name.startswith("new")} == {(), ("loop i, at most 4 trips",)}
    assert [op.name for x in found.boxes for op in x.operators] == ["new", "last", "b_moved", "c_moved"] * 3
    assert {output.name for x in found.boxes for output in x.outputs} == {"p", "q", "r"}
    assert len(of_class(draw(found, "loop"), "carried")) == 3


def test_lanes_side_by_side_and_loops_of_a_grid(welds: Path) -> None:
    """What schedulers may make, and none does yet: lanes that wait for later ones, loops inside of a launch."""
    plan = planned(str(welds), "epilogue")
    first, *rest = plan.program.body
    assert isinstance(first, Launch)
    parts = [x.body[0] for x in rest if isinstance(x, Launch)]
    lanes = tuple(lane for part in parts if isinstance(part, Phase) for lane in part.lanes)
    before = graph(plan)
    order = len(lanes) - 1

    def renumbered(graph: Graph) -> set[tuple[int, int, int]]:
        turn = {0: 0, **{i + 1: order - i + 1 for i in range(order + 1)}}
        return {(turn[x.source], turn[x.target], x.bytes) for x in graph.edges}

    together = Launch("together", first.envelope, (Phase(lanes[::-1]),))
    merged = graph(attrs.evolve(plan, program=attrs.evolve(plan.program, body=(first, together))))
    assert {(x.source, x.target, x.bytes) for x in merged.edges} == renumbered(before)
    assert {x.name for x in merged.boxes} == {x.name for x in before.boxes}

    loop = GridControl("t", const(7), "", (Phase(lanes),))
    looped = attrs.evolve(together, body=(loop,))
    found = graph(attrs.evolve(plan, program=attrs.evolve(plan.program, body=(first, looped))))
    assert found.edges == before.edges
    assert {x.scopes for x in found.boxes[1:]} == {("loop t, at most 7 trips",)}

    twice = tuple(attrs.evolve(lane, first=i) for i in (0, 1) for lane in lanes[:1])
    assert all(isinstance(x, Lane) for x in twice)
    split = attrs.evolve(together, body=(Phase(twice),))
    once = graph(attrs.evolve(plan, program=attrs.evolve(plan.program, body=(first, split))))
    assert len(once.boxes) == 2


def test_calls_are_boxes_and_functions_are_drawn() -> None:
    m = ModuleBuilder(depth=64)

    @m.function([("int64", ())], [("int64", ())])
    def fibonacci(b: Any, n: Any) -> Any:
        def recurse() -> Any:
            return b.op("Add", b.call(fibonacci, b.op("Sub", n, 1)), b.call(fibonacci, b.op("Sub", n, 2)))

        return b.cond(b.op("Less", n, 2), lambda: n, recurse)

    @m.entry([("int64", ())])
    def main(b: Any, n: Any) -> Any:
        return b.call(fibonacci, n)

    plan = planned(m.build(), target="cpu")
    found = graph(plan)
    called = [x for x in found.boxes if not x.kernel]
    assert [x.name for x in called] == ["fibonacci"] * 3
    assert [x.scopes[:1] for x in called] == [(), ("function fibonacci",), ("function fibonacci",)]
    assert [x.name for x in called[0].inputs] == list(plan.program.input_names)
    adds = {i for i, x in enumerate(found.boxes) if any(op.kind == "Add" for op in x.operators)}
    inner = {i for i, x in enumerate(found.boxes) if not x.kernel and x.scopes}
    assert {e.source for e in found.edges if e.target in adds} == inner
    assert len(of_class(draw(found, "f"), "call")) == 3


def test_a_symbolic_dimension_counts_with_its_bound(tw: Tw, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    w = np.eye(4, dtype="f4")
    model = save_model(tmp_path / "m.onnx", nodes, {"x": ("n", 4)}, {"y": ("n", 4)}, {"w": w})
    file = tmp_path / "m.svg"
    assert tw("explain", model, "--shape", "n=1..32", "--svg", file).code == 0
    assert [x.get("data-bytes") for x in of_class(file.read_text(), "edge")] == [str(32 * 4 * 4)]
    several = tw("explain", model, "--shape", "n=1,2", "--svg", tmp_path / "none.svg")
    assert several.code == 2
    assert "there are 2, for several shapes" in several.err
    assert not (tmp_path / "none.svg").exists()


def test_names_are_text_whatever_is_in_them(tmp_path: Path) -> None:
    name = '<a & "b">\x01\n' + "long" * 50
    found = helper.make_tensor_value_info
    graph_proto = helper.make_graph(
        [helper.make_node("Relu", [name], ["r"]), helper.make_node("MatMul", ["r", "r"], ["y]]>"])],
        "g",
        [found(name, TensorProto.FLOAT, [4, 4])],
        [found("y]]>", TensorProto.FLOAT, [4, 4])],
    )
    model = helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    svg = draw(graph(planned(model)), "<&>")
    assert texts(ElementTree.fromstring(svg))[0] == "<&>"
    first, second = of_class(svg, "kernel")
    (read,) = [x for x in texts(first) if x.startswith("reads")]
    assert read.startswith('reads <a & "b')
    assert read.endswith("long")
    assert len(read) < 60
    title = first.findtext(f"{SVG}title") or ""
    assert 'reads <a & "b">\ufffd\n' + "long" * 50 in title
    assert "makes y]]>" in texts(second)


def test_what_cannot_be_drawn_is_said(tw: Tw, dense: Path, tmp_path: Path) -> None:
    assert tw("compile", dense, "-o", tmp_path / "m.tw").code == 0
    for arguments, words in (
        ((tmp_path / "m.tw",), "Give the model that it was compiled from"),
        ((dense, "--slot", "connect"), "--slot, --about and --alternatives are for decisions"),
        ((dense, "--alternatives"), "are for decisions"),
    ):
        result = tw("explain", *arguments, "--svg", tmp_path / "m.svg")
        assert result.code == 2
        assert words in " ".join(result.err.split())
    assert not (tmp_path / "m.svg").exists()


def test_the_heading_adds_up(welds: Path) -> None:
    found = graph(planned(str(welds), "singletons"))
    text = " ".join(texts(ElementTree.fromstring(draw(found, "what it is of"))))
    total = sum(x.seconds for x in found.boxes) * 1e6
    assert f"{len(found.boxes)} kernels, {total:.1f} µs predicted" in text
    assert f"{size_text(sum(x.bytes for x in found.edges))} read from other kernels" in text
