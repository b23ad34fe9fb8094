"""Persistent launches on the emulator: the default scheduler's kernels, merged, beside ONNX Runtime and NumPy."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import tvm_ffi

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import MERGES, dealt, merged, placed
from backends.tests.test_cuda_conformance import HALF_RECIPES, RECIPES, check
from backends.tests.test_cuda_models import RANGES, VALUES, agree, close, expected, symbolic_block, symbolic_feeds
from tilewright.compiler import build_program, plan_model, plan_module, recipes_of
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InternalError, VerifyError
from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.lengths import delivered
from tilewright.ir.program import (
    BlockControl,
    Envelope,
    GridControl,
    Item,
    Lane,
    Launch,
    Phase,
    Program,
    Signal,
    Task,
    Wait,
)
from tilewright.ir.verify import verify_program
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import RecipeEntry
from tilewright.runtime.native import TaskTime
from tilewright.testing import conformance
from tilewright.testing.cases import Case, case, node
from tilewright.testing.control import control_case
from tilewright.testing.corpus import corpus
from tilewright.testing.precision import narrowed
from tilewright.testing.recursion import recursion_case
from tilewright.testing.reference import Reference
from tilewright_backends import gpus
from tilewright_backends.buffers import load_library
from tilewright_backends.build.cuda.builder import device_code, host_module, link
from tilewright_backends.build.cuda.compile import find_nvcc
from tilewright_backends.build.cuda.led import records_of
from tilewright_backends.build.cuda.library import packed_modules
from tilewright_backends.build.cuda.records import KIND_BITS, Kind
from tilewright_backends.host.cuda import CudaHost, emit_launch
from tilewright_backends.machine_code import machine_code

ALONE = ("cuda.chain_wgmma", "cuda.wgmma_ring")
ARCHITECTURES = ("sm_80", "sm_90a")


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"cuda:{device}"}), registry)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_for("h200")


def branches() -> Case:
    """Two convolutions side by side, pooled, joined, then a product, a normalisation and a softmax."""
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Conv", "x k1", "d"),
        node("Sigmoid", "d", "s"),
        node("Concat", "p s", "j", axis=1),
        node("ReduceMean", "j axes", "m", keepdims=0),
        node("MatMul", "m w", "q"),
        node("LayerNormalization", "q g b", "n"),
        node("Softmax", "n", "y", axis=-1),
    ]
    rng = np.random.default_rng(0)
    shapes = {"k": (8, 4, 3, 3), "k1": (8, 4, 1, 1), "w": (16, 40), "g": (40,), "b": (40,)}
    weights = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    weights["axes"] = np.array([2, 3])
    feeds = {"x": rng.standard_normal((3, 4, 9, 9)).astype(np.float32)}
    return case("branches", nodes, feeds, weights, ("y", "j"))


def planned(one: Case, settings: Settings, dtype: str = "float32") -> Program:
    return plan_model(one.model if dtype == "float32" else narrowed(one.model, dtype), settings).program


def inputs_of(program: Program, one: Case) -> list[Any]:
    pairs = zip(program.input_names, program.inputs, strict=True)
    return [one.feeds[key].astype(dtypes.to_numpy(value.dtype)) for key, value in pairs]


@pytest.mark.parametrize("merge", MERGES)
def test_merged_launches_agree_with_onnx_runtime(merge: str, settings: Settings) -> None:
    one = branches()
    program = planned(one, settings)
    made = merged(program, MERGES[merge], 5)
    verify_program(made)
    assert len(program.body) > 5
    assert len(made.body) == 1
    found = emulate(made, settings, inputs_of(program, one), seeds=range(3))
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))


def together(program: Program, settings: Settings, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program of which all launches are one, on three units."""
    made = merged(program, MERGES["point to point"], 3)
    verify_program(made)
    return emulate(made, settings, inputs)


def check_members(recipe: str, settings: Settings, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "run", together)
    dtype = "float16" if recipe in HALF_RECIPES else "float32"
    check(recipe, settings, samples, 3, corpus(dtype), most=samples)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("recipe", ["mma", "simt", "wgmma"])
def test_kernels_are_members(recipe: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    check_members(recipe, settings, 2, monkeypatch)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("recipe", [x for x in RECIPES if f"cuda.{x}" not in ALONE])
def test_kernels_of_every_recipe_are_members(recipe: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices of different thread counts and shared memory in one persistent kernel."""
    check_members(recipe, settings, 6, monkeypatch)


def test_recipes_say_which_kernels_are_launched_alone(settings: Settings, tmp_path: Path) -> None:
    recipes = recipes_of(settings)
    assert {x for x in recipes if not recipes[x].embeddable} == set(ALONE)
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((1024, 1024)).astype(np.float16)}
    feeds = {"x": np.zeros((1024, 1024), np.float16)}
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "t"), node("MatMul", "t w", "y")]
    one = case("ring", nodes, feeds, weights)
    program = plan_model(one.model, settings).program
    assert {x.choice.recipe for x in program.kernels.values()} == {"cuda.wgmma_ring"}
    with pytest.raises(InternalError, match="wgmma_ring is not embeddable"):
        build_program(merged(program, MERGES["phases"], 4, alone=()), settings, tmp_path)


@pytest.mark.parametrize("values", [VALUES[1], pytest.param(VALUES[2], marks=pytest.mark.slow)])
@pytest.mark.parametrize("merge", ["phases", "point to point"])
def test_symbols_decide_how_many_tasks_there_are(merge: str, values: dict[str, int], settings: Settings) -> None:
    """Tasks and numbers of kernels follow from sizes that are known when the program runs."""
    program = plan_model(symbolic_block(), settings, RANGES).program
    made = merged(program, MERGES[merge], 5)
    assert len(made.body) == 1
    feeds = symbolic_feeds(values)
    found = emulate(made, settings, [feeds[x] for x in program.input_names], values)
    agree(made.output_names, found, expected(symbolic_block(), feeds))


@pytest.fixture(scope="module")
def separate() -> Settings:
    """Settings in which every operator has a kernel of its own."""
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200", "slots": {"connect": "singletons"}}), registry)


def quartering() -> Case:
    """`t = x / 2; y = t / 2`, and whether the sum of `y` is above 1."""
    nodes = [
        node("Mul", "x half", "t"),
        node("Mul", "t half", "y"),
        node("ReduceSum", "y", "sum", keepdims=0),
        node("Greater", "sum one", "go"),
    ]
    weights = {"half": np.float32(0.5), "one": np.float32(1)}
    return case("quartering", nodes, {"x": np.ones((40, 33), np.float32)}, weights, ("y", "go"))


def again(calls: Sequence[Task], program: Program) -> list[Task]:
    """The calls with the first one on what the second one made."""
    x, y = program.inputs[0].name, program.outputs[0].name
    return [attrs.evolve(calls[0], args=tuple(y if a == x else a for a in calls[0].args)), *calls[1:]]


def while_on_the_grid(calls: Sequence[Task], program: Program) -> tuple[Phase | GridControl, ...]:
    def each(given: Sequence[Task]) -> tuple[Phase, ...]:
        return tuple(Phase((dealt(x, program, 0, 4),)) for x in given)

    go = program.outputs[1].name
    return (*each(calls), GridControl("i", const(1000), go, each(again(calls, program))))


def while_in_a_block(calls: Sequence[Task], program: Program) -> tuple[Phase | GridControl, ...]:
    def each(given: Sequence[Task]) -> tuple[Item, ...]:
        return tuple(dealt(x, program, 2, 1).items[0] for x in given)

    go = program.outputs[1].name
    loop = BlockControl("i", const(1000), go, each(again(calls, program)))
    return (Phase((Lane(2, const(1), (*each(calls), loop)),)),)


def branch_of_the_grid(calls: Sequence[Task], program: Program) -> tuple[Phase | GridControl, ...]:
    """Twice more where the sum is above 1, else once more."""
    go = program.outputs[1].name
    once = tuple(Phase((dealt(x, program, 0, 4),)) for x in again(calls, program))
    first = tuple(Phase((dealt(x, program, 0, 4),)) for x in calls)
    return (*first, GridControl("", None, go, (*once, *once), once))


CONTROLS = {"grid": while_on_the_grid, "block": while_in_a_block, "branch": branch_of_the_grid}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("value", [3.0, 1e-4])
def test_control_inside_a_launch(control: str, value: float, separate: Settings) -> None:
    """Conditions are read by all threads of all units before anything writes them again."""
    one = quartering()
    program = planned(one, separate)
    calls = [x.only_task for x in program.body if isinstance(x, Launch) and x.only_task is not None]
    assert len(calls) == len(program.body) == 4
    body = CONTROLS[control](calls, program)
    made = placed(attrs.evolve(program, body=(Launch("all", Envelope(4, 1024, 0, 1 << 15, True), body),)))
    verify_program(made)
    x = np.full((40, 33), value, np.float32)
    y, go = emulate(made, separate, [x], seeds=range(4))
    wanted = x / 4
    if control == "branch":
        wanted = wanted / (16 if wanted.sum() > 1 else 4)
    while control != "branch" and wanted.sum() > 1:
        wanted = wanted / 4
    assert np.array_equal(y, wanted)
    assert bool(go) == (wanted.sum() > 1)


def test_units_that_wait_need_a_cooperative_launch(settings: Settings, tmp_path: Path) -> None:
    """Whatever the verifier was told to look at."""
    made = merged(planned(branches(), settings), MERGES["point to point"], 3)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    apart = attrs.evolve(launch, envelope=attrs.evolve(launch.envelope, cooperative=False))
    with pytest.raises(InternalError, match="not cooperative"):
        build_program(attrs.evolve(made, body=(apart,)), settings, tmp_path)


@pytest.mark.parametrize("seed", [2, 3])
def test_procedures_have_persistent_launches(seed: int, settings: Settings) -> None:
    """Their values stand in frames, whose address is one of the kernel's."""
    one = recursion_case(seed)
    made = merged(plan_module(one.module, settings).program, MERGES["phases"], 3)
    verify_program(made)
    close(emulate(made, settings, one.feeds), one.wanted)


@pytest.mark.parametrize("seed", [0, 1])
def test_loops_and_branches_of_the_host_have_persistent_launches(seed: int, settings: Settings) -> None:
    """A launch in a loop runs again and again: its tickets go on, its counters are cleared."""
    one = control_case(seed)
    made = merged(plan_model(one.model, settings).program, MERGES["point to point"], 3)
    verify_program(made)
    found = emulate(made, settings, [np.asarray(one.feeds[x]) for x in made.input_names])
    names = [x.name for x in one.model.graph.output]
    wanted = Reference(18).graph(one.model.graph, one.feeds)
    agree(names, delivered(made.output_names, made.lengths, found), wanted)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_merged_model_becomes_machine_code(arch: str, tmp_path: Path) -> None:
    """Members spill nothing, and what they read is never taken for constant: others may write it meanwhile."""
    settings = settings_for(arch)
    program = planned(branches(), settings, "float16")
    made = merged(program, MERGES["point to point"], 108)
    output = build_program(made, settings, tmp_path)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    assert output.data["cooperative"] == {launch.name: "tw_persistent_0"}
    facts = output.data["kernels"]["tw_persistent_0"]
    assert 0 < facts["registers"] <= 65536 // launch.envelope.threads
    assert (facts["spill_bytes"], facts["stack_bytes"], facts["blocks"]) == (0, 0, 108)
    assert [x for x in output.data["buffers"] if x[1] == "event"] == [[launch.event_buffer, "event", 512]]
    (code,) = machine_code(output.library)
    assert code == (tmp_path / "kernels.cubin").read_bytes()
    source = (tmp_path / "kernels.cu").read_text()
    assert all(source.count(f"void tw_member_{x}(") == 2 for x in program.kernels)  # declared, defined
    if (nvcc := find_nvcc()) is not None:
        number = arch.removeprefix("sm_")
        command = [nvcc, "-ptx", "-std=c++17", f"-gencode=arch=compute_{number},code=compute_{number}"]
        subprocess.run([*command, "-o", "kernels.ptx", "kernels.cu"], cwd=tmp_path, check=True, capture_output=True)
        members, kernel = (tmp_path / "kernels.ptx").read_text().split(".entry tw_persistent_0", 1)
        assert "ld.global" in members
        assert "ld.global.nc" not in members
        assert "ld.acquire.gpu" in kernel


def test_builds_are_byte_identical(settings: Settings, tmp_path: Path) -> None:
    made = merged(planned(branches(), settings), MERGES["phases"], 4)
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (build_program(made, settings, tmp_path / name).library.read_bytes() for name in "ab")
    assert first == second


def test_a_traced_launch_says_when_it_ran_what(settings: Settings, tmp_path: Path) -> None:
    """Every task is recorded once and begins after the phase before; nothing is recorded if not asked for."""
    one = branches()
    plain = merged(planned(one, settings), MERGES["phases"], 3)
    (launch,) = plain.body
    made = placed(attrs.evolve(plain, body=(attrs.evolve(launch, traced=200),)))
    verify_program(made)
    times: dict[str, list[TaskTime]] = {}
    found = emulate(made, settings, inputs_of(made, one), seeds=(3, 4), times=times)
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))
    (records,) = times.values()
    wanted = {(n, i) for n, k in made.kernels.items() for i in range(k.choice.resources.tasks)}
    assert len(records) == len(wanted)
    assert {(x.kernel, x.task) for x in records} == wanted
    assert all(x.begin < x.end and x.place == x.unit == x.task % 3 for x in records)
    order = list(made.kernels)  # a phase each
    for before, after in itertools.pairwise(order):
        last = max(x.end for x in records if x.kernel == before)
        assert last < min(x.begin for x in records if x.kernel == after)
    sources = []
    for program, name in ((plain, "plain"), (made, "traced")):
        (tmp_path / name).mkdir()
        told = build_program(program, settings, tmp_path / name).data
        assert ("traced" in told) == (name == "traced")
        sources.append((tmp_path / name / "kernels.cu").read_text().split("tw_persistent_0_words", 1)[1])
    assert ["tw_gpu_time" in x for x in sources] == [False, True]


def test_a_unit_keeps_no_more_records_than_it_has_room_for(settings: Settings) -> None:
    one = branches()
    made = merged(planned(one, settings), MERGES["phases"], 3)
    (launch,) = made.body
    made = placed(attrs.evolve(made, body=(attrs.evolve(launch, traced=2),)))
    times: dict[str, list[TaskTime]] = {}
    emulate(made, settings, inputs_of(made, one), times=times)
    assert [x.unit for x in times["all0"]] == [0, 0, 1, 1, 2, 2]


def test_waits_in_a_row_are_looked_at_together(settings: Settings) -> None:
    """Three at a time, with one barrier of the block behind the last; results are what they are with one wait."""
    one = branches()
    made = merged(planned(one, settings), MERGES["point to point"], 3)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    (lane,) = phase.lanes
    first = next(i for i, x in enumerate(lane.items) if isinstance(x, Wait))
    items = (*lane.items[:first], *[lane.items[first]] * 4, *lane.items[first:])
    launch = attrs.evolve(launch, body=(Phase((attrs.evolve(lane, items=items),)),))
    made = attrs.evolve(made, body=(launch,))
    verify_program(made)
    records = records_of(launch, made)
    waits = [x for x in records.code.tolist() if x[0] & ((1 << KIND_BITS) - 1) == Kind.WAITS]
    assert Kind.WAIT not in records.kinds
    several, last = waits[0], waits[1]
    assert several[1] == several[2] == several[3] == last[1] == last[2] > 0
    assert (last[3], several[0] >> KIND_BITS, last[0] >> KIND_BITS) == (0, 0, 1)
    found = emulate(made, settings, inputs_of(made, one), seeds=range(3))
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))


WAITS = """
import sys
sys.path.insert(0, {root!r})
from backends.tests.test_cuda_persistent import dropped
dropped({what!r})
"""


def dropped(what: str) -> None:
    """Runs a merged program with something left out, on the emulator, past the verifier."""
    settings, one = settings_for("h200"), branches()
    made = merged(planned(one, settings), MERGES["point to point"], 3)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    broken = without(launch, what)
    try:
        verify_program(attrs.evolve(made, body=(broken,)))
    except VerifyError as error:
        sys.stdout.write(str(error))
    for seed in range(6):  # each on fresh memory: a second run would find what the first has left
        found = emulate(attrs.evolve(made, body=(broken,)), settings, inputs_of(made, one), seeds=(seed,))
        agree(made.output_names, found, expected(one.model, dict(one.feeds)))


def without(launch: Launch, what: str) -> Launch:
    """The launch without its first wait or signal."""
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    (lane,) = phase.lanes
    kind = {"wait": Wait, "signal": Signal}[what]
    first = next(i for i, x in enumerate(lane.items) if isinstance(x, kind))
    items = (*lane.items[:first], *lane.items[first + 1 :])
    return attrs.evolve(launch, body=(Phase((attrs.evolve(lane, items=items),)),))


@pytest.mark.parametrize(
    ("what", "law", "outcome"),
    [("wait", "are unordered", "AssertionError"), ("signal", "is met by signals", "wait for each other for ever")],
)
def test_what_is_dropped_is_refused_and_goes_wrong(what: str, law: str, outcome: str) -> None:
    """Without a wait the numbers are wrong for some order of the blocks; without a signal they wait for ever."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WAITS.format(root=root, what=what)], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert law in done.stdout, done.stdout
    assert outcome in done.stderr, done.stderr


def test_a_dropped_barrier_is_refused(settings: Settings) -> None:
    made = merged(planned(branches(), settings), MERGES["phases"], 3)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    first, second, *rest = launch.body
    assert isinstance(first, Phase)
    assert isinstance(second, Phase)
    lane = attrs.evolve(first.lanes[0], items=(*first.lanes[0].items, *second.lanes[0].items))
    with pytest.raises(VerifyError):
        verify_program(attrs.evolve(made, body=(attrs.evolve(launch, body=(Phase((lane,)), *rest)),)))


def test_the_host_hands_over_addresses_and_symbols(settings: Settings, tmp_path: Path) -> None:
    """A function in the place of the kernel sees its struct: the addresses that records name, then the symbols."""
    program = plan_model(symbolic_block(), settings, RANGES).program
    made = merged(program, MERGES["phases"], 5)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    registry = settings.registry
    used = {x.choice.recipe for x in made.kernels.values()}
    entries = {name: registry.get(RecipeEntry, name) for name in used}
    emitters = {n: registry.resolve(e, e.emitter) for n, e in entries.items()}
    code = device_code(made, emitters, gpus.model("cuda", "h200"))
    found = code.persistent[launch.name]
    host = CudaHost(made, code.alone, code.persistent, {}, {})
    host.run(emit_launch)
    link(host_module(host.finish("main_host")), packed_modules([]), tmp_path / "library.so", tmp_path)
    calls = []

    def kernel(words: Any, *sizes: int) -> None:
        calls.append((list((ctypes.c_uint64 * found.kernel.words).from_address(words.value)), sizes))

    tvm_ffi.register_global_func(found.kernel.name, kernel, override=True)
    names = [*made.storage.buffers]
    table = np.array([1000 * i for i in range(1, len(names) + 1)] + [2, 7, 8], np.uint64)
    _, main = load_library(tmp_path / "library.so", "main_host")
    main(ctypes.c_void_p(table.ctypes.data))
    ((words, sizes),) = calls
    assert words == [*(1000 * (1 + names.index(x)) for x in found.buffers), 2, 7, 8]
    assert found.buffers[0] == launch.event_buffer
    assert list(sizes) == [5, launch.envelope.threads, launch.envelope.shared_bytes]
