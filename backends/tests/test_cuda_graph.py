"""Loops and branches that the device decides, as nodes of a CUDA graph: captured and run on the CPU, on a device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.cuda_on_cpu.graphs import on_the_cpu, runtime
from backends.tests.graphs import CONDITIONAL, decided_by_the_device, node_types
from backends.tests.test_cuda_device import SHAPE, controlled, halvings
from tilewright.compare import compare_outputs
from tilewright.compiler import build_program, plan_model, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError, InternalError
from tilewright.frontend import load
from tilewright.ir.expr import Var, const
from tilewright.ir.graphs import graph_control
from tilewright.ir.lengths import delivered
from tilewright.ir.program import HostIf, HostLoop, Program
from tilewright.plugins.manager import Registry
from tilewright.runtime import immediate
from tilewright.runtime.native import NO_SYMBOLS
from tilewright.testing.control import control_case
from tilewright.testing.reference import Reference
from tilewright_backends.build.cuda import graph
from tilewright_backends.build.cuda.compile import compile_source
from tilewright_backends.load_cuda import CudaProgram

_log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def settings() -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200"}), registry)


def array(scale: float) -> Any:
    return (scale * (1 + np.random.default_rng(0).random(SHAPE))).astype(np.float32)


def run(native: Any, program: Program, *inputs: Any, symbols: Mapping[str, int] = NO_SYMBOLS) -> list[Any]:
    outputs = [immediate.poisoned(v.static_shape(), v.dtype) for v in program.outputs]
    native.run([np.ascontiguousarray(x) for x in inputs], outputs, symbols)
    return outputs


def called(name: str) -> int:
    return int(runtime().emu_called(name.encode()))


@pytest.fixture
def no_failure() -> Iterator[None]:
    yield
    runtime().emu_fail_in(-1)


@pytest.mark.parametrize("control", ["while", "if"])
def test_control_that_the_device_decides_builds(control: str, settings: Settings, tmp_path: Path) -> None:
    """The kernels that decide are apart: the source of all others is as it was."""
    program = controlled(settings, control)
    outputs = []
    for number, made in enumerate((program, decided_by_the_device(program))):
        folder = tmp_path / str(number)
        folder.mkdir()
        outputs.append(build_program(made, settings, folder))
    plain, marked = outputs
    assert marked.data["capturable"]
    assert (marked.data["conditional"], plain.data.get("conditional", 0)) == (1, 0)
    source, deciding = (tmp_path / "1" / f"{x}.cu" for x in ("kernels", "graph"))
    assert source.read_bytes() == (tmp_path / "0" / source.name).read_bytes()
    assert not (tmp_path / "0" / deciding.name).exists()
    assert b"cudaGraphSetConditional" in compile_source(deciding.read_text(), "sm_90a", tmp_path).cubin


def test_an_old_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path) -> None:
    monkeypatch.setattr(graph, "compiler_version", lambda: "nvcc 12.3.107")
    with pytest.raises(InputError, match=r"a compiler of CUDA 12\.4 or later, and this is nvcc 12\.3\.107"):
        build_program(decided_by_the_device(controlled(settings, "if")), settings, tmp_path)
    assert not (tmp_path / "graph.cu").exists()


@pytest.mark.parametrize("control", ["while", "if", pytest.param("for", marks=pytest.mark.slow)])
def test_a_graph_decides_anew_in_each_run(control: str, settings: Settings) -> None:
    """The first run goes without a graph; later ones replay what the second has captured."""
    program = decided_by_the_device(controlled(settings, control))
    with on_the_cpu(program, settings) as native:
        for scale in (1.0, 1e-6, 30.0, 1e-6, 1.0):
            before = called("cudaGraphLaunch")
            (found, going) = run(native, program, array(scale))
            assert np.array_equal(found, array(scale) * np.float32(0.5) ** halvings(array(scale), control))
            assert going == (found.astype(np.float64).sum() > 1)
        assert called("cudaGraphLaunch") == before + 1
        assert node_types(native).count(CONDITIONAL) == 1


def test_sides_that_have_no_steps(settings: Settings) -> None:
    """A branch on the second side only, one on neither, and a loop without a trip."""
    program = controlled(settings, "if")
    *before, step = program.body
    assert isinstance(step, HostIf)
    again = step.then
    bodies = {
        "second": (HostIf(step.condition, (), again, graph=True),),
        "neither": (HostIf(step.condition, (), (), graph=True),),
        "no trip": (HostLoop("i", const(0), "", again, graph=True),),
    }
    for name, added in bodies.items():
        made = attrs.evolve(program, body=(*before, *added))
        with on_the_cpu(made, settings) as native:
            for scale in (1.0, 1e-6, 1.0, 1e-6):
                once = array(scale) * np.float32(0.5)
                more = name == "second" and once.sum() <= 1
                assert np.array_equal(run(native, made, array(scale))[0], once * np.float32(0.5 if more else 1)), name
            assert node_types(native).count(CONDITIONAL) == (name != "neither")


def agree(names: list[str], found: Any, wanted: Any) -> None:
    for agreement in compare_outputs(names, found, wanted):
        assert agreement.ok, agreement


def check_random(seed: int, settings: Settings) -> None:
    """All control of a random model, nested and with what it collects, beside ONNX's reference; also for other data."""
    case = control_case(seed)
    module = load(case.model)
    program = decided_by_the_device(plan_module(module, settings).program)
    names = [x.name for x in case.model.graph.output]
    with on_the_cpu(program, settings) as native:
        for negated in (False, False, True, False):
            feeds = {k: -v if negated and v.dtype == np.float32 else ~v if negated and v.dtype == bool else v
                     for k, v in case.feeds.items()}  # fmt: skip
            found = run(native, program, *(feeds[x] for x in module.input_names))
            wanted = Reference(18).graph(case.model.graph, feeds)
            agree(names, delivered(module.output_names, module.lengths, found), wanted)
        assert (CONDITIONAL in node_types(native)) == any(True for _ in graph_control(program.body))


@pytest.mark.parametrize("seed", [4, 19])
def test_all_control_of_a_random_model_in_a_graph(seed: int, settings: Settings) -> None:
    check_random(seed, settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 30))
def test_all_control_of_more_random_models_in_a_graph(seed: int, settings: Settings) -> None:
    check_random(seed, settings)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(30, 130))
def test_all_control_of_many_random_models_in_a_graph(seed: int, settings: Settings) -> None:
    check_random(seed, settings)


def test_the_kernels_that_decide_stay_in_their_operands(settings: Settings) -> None:
    """With guard pages around these: limits, conditions, numbers that are set and rows, counted on the device."""
    case = control_case(4)
    program = decided_by_the_device(plan_model(case.model, settings).program)
    found = emulate(program, settings, [np.asarray(case.feeds[x]) for x in program.input_names])
    wanted = Reference(18).graph(case.model.graph, case.feeds)
    names = [x.name for x in case.model.graph.output]
    agree(names, delivered(program.output_names, program.lengths, found), wanted)


def shrinking() -> onnx.ModelProto:
    """`y = tanh(mean(z · x))` again and again, while its largest element is above 0.2; `x` has `n` rows."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["s", "x"], ["p"]),
        helper.make_node("ReduceMean", ["p", "axes"], ["t"], keepdims=0),
        helper.make_node("Tanh", ["t"], ["next"]),
        helper.make_node("ReduceMax", ["next"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "least"], ["on"]),
    ]
    params = [value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ()), value("s", TensorProto.FLOAT, (4,))]
    results = [value("on", TensorProto.BOOL, ()), value("next", TensorProto.FLOAT, (4,))]
    loop = helper.make_node("Loop", ["", "true", "z"], ["y"], body=helper.make_graph(nodes, "b", params, results))
    known = {"axes": np.asarray([0]), "least": np.float32(0.2), "true": np.asarray(True)}
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in known.items()]
    inputs = [value("x", TensorProto.FLOAT, ("n", 4)), value("z", TensorProto.FLOAT, (4,))]
    graph = helper.make_graph([loop], "g", inputs, [value("y", TensorProto.FLOAT, (4,))], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_each_set_of_symbol_values_has_a_graph(settings: Settings) -> None:
    model = shrinking()
    program = decided_by_the_device(plan_module(load(model, {"n": range(1, 9)}), settings).program)
    rng = np.random.default_rng(0)
    with on_the_cpu(program, settings) as native:
        for n in (3, 3, 5, 3, 5, 5, 2, 2, 3):
            x, z = rng.random((n, 4), np.float32), rng.random(4, np.float32)
            wanted = Reference(18).graph(model.graph, {"x": x, "z": z})
            agree(["y"], run(native, program, x, z, symbols={"n": n}), wanted)
        assert sorted(k for k, graph in native._graphs.items() if graph is not None) == [(2,), (3,), (5,)]


def test_a_loop_that_is_written_out_around_one_that_is_not(settings: Settings) -> None:
    """Three loops of two trips, each with a node of its own, and a number that both counters set."""
    program = controlled(settings, "for")
    *before, loop = program.body
    assert isinstance(loop, HostLoop)
    inner = attrs.evolve(loop, counter="j", trip=Var("i") + 1, graph=True)
    made = attrs.evolve(program, body=(*before, attrs.evolve(loop, trip=const(3), body=(inner,))))
    with on_the_cpu(made, settings) as native:
        for _ in range(3):
            assert np.array_equal(run(native, made, array(1.0))[0], array(1.0) * np.float32(0.5) ** 7)
        assert node_types(native).count(CONDITIONAL) == 3


@pytest.mark.usefixtures("no_failure")
def test_whatever_call_of_a_capture_fails_the_host_decides(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A branch in a loop in a branch: every call fails once. Streams are given back, results stay right."""
    program = controlled(settings, "if")
    *before, step = program.body
    assert isinstance(step, HostIf)
    loop = HostLoop("i", const(2), "", (HostIf(step.condition, step.then, step.then),))
    program = decided_by_the_device(attrs.evolve(program, body=(*before, HostIf(step.condition, (loop,), step.then))))
    wanted = {1.0: array(1.0) * np.float32(0.125), 1e-6: array(1e-6) * np.float32(0.25)}
    refused = set()
    with on_the_cpu(program, settings) as native:
        for number in range(100):
            caplog.clear()
            native._graphs.clear()
            native._capturable = True
            held = called("cudaStreamCreateWithFlags") - called("cudaStreamDestroy")
            runtime().emu_fail_in_capture(number)
            for scale in (1.0, 1.0, 1e-6):
                assert np.array_equal(run(native, program, array(scale))[0], wanted[scale]), number
            if native._capturable:
                break
            (record,) = caplog.records
            call = record.getMessage().rpartition("can: ")[2].partition(":")[0]
            refused.add(call)
            assert called("cudaStreamCreateWithFlags") - called("cudaStreamDestroy") - held in (
                0,
                call.endswith("Flags"),
            )
    assert number > 20
    assert {"cudaGraphAddNode", "cudaGraphInstantiate", "cudaStreamEndCapture"} < refused


@pytest.mark.usefixtures("no_failure")
def test_an_error_of_a_run_without_a_graph_is_raised(settings: Settings) -> None:
    program = decided_by_the_device(controlled(settings, "while"))
    with on_the_cpu(program, settings) as native:
        runtime().emu_fail_in(0)
        with pytest.raises(InternalError, match="cudaStreamGetCaptureInfo: emulated"):
            run(native, program, array(1.0))
        for _ in range(2):
            found = run(native, program, array(1.0))[0]
            assert np.array_equal(found, array(1.0) * np.float32(0.5) ** halvings(array(1.0), "while"))


@pytest.mark.gpu
@pytest.mark.parametrize("control", ["while", "for", "if"])
def test_a_graph_decides_on_the_device(control: str, settings: Settings) -> None:
    program = decided_by_the_device(controlled(settings, control))
    with immediate.loaded(program, settings) as native:
        assert isinstance(native, CudaProgram)
        for scale in (1.0, 1e-6, 30.0, 1.0):
            found, going = run(native, program, array(scale))
            assert np.array_equal(found, array(scale) * np.float32(0.5) ** halvings(array(scale), control))
            assert going == (found.astype(np.float64).sum() > 1)
        assert [x is not None for x in native._graphs.values()] == [True]
        assert node_types(native).count(CONDITIONAL) == 1
        seconds = sorted(native.measure(20))[10]
    _log.info("%s: %.1f µs", control, seconds * 1e6)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(40))
def test_all_control_of_a_random_model_in_a_graph_on_the_device(seed: int, settings: Settings) -> None:
    case = control_case(seed)
    module = load(case.model)
    program = decided_by_the_device(plan_module(module, settings).program)
    names = [x.name for x in case.model.graph.output]
    with immediate.loaded(program, settings) as native:
        assert isinstance(native, CudaProgram)
        for sign in (1, 1, -1):
            feeds = {k: sign * v if v.dtype == np.float32 else v for k, v in case.feeds.items()}
            found = run(native, program, *(feeds[x] for x in module.input_names))
            wanted = Reference(18).graph(case.model.graph, feeds)
            agree(names, delivered(module.output_names, module.lengths, found), wanted)
        assert (CONDITIONAL in node_types(native)) == any(True for _ in graph_control(program.body))
