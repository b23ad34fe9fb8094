"""Slices of weights in the units' own memory, on the emulator beside ONNX Runtime, and in the machine code."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import MERGES, merged
from backends.tests.test_cuda_models import agree, expected
from backends.tests.test_cuda_persistent import inputs_of
from tilewright.compiler import build_program, plan_model
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.device import load_device
from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.program import Envelope, Fetch, HostStep, Kernel, Lane, Launch, Phase, Program, Task
from tilewright.ir.verify import verify_program
from tilewright.ir.verify.tree import leaves, tasks_of
from tilewright.plugins.manager import Registry
from tilewright.recipes import Recipe
from tilewright.testing.cases import Case, case, node
from tilewright.views.subject import subject_of
from tilewright_backends.build.cuda.compile import find_nvcc
from tilewright_backends.recipes.gpu import reduce, rows

WIDTH = 64
STEPS = 3
UNITS = 5


def settings_for(connect: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200", "slots": {"connect": connect}}), registry)


def recurrence() -> Case:
    """`h = tanh(Wx + Rh)`, over and over."""
    nodes, state = [], "h"
    for i in range(STEPS):
        nodes += [
            node("Gemm", f"x{i} w b", f"p{i}", transB=1),
            node("Gemm", f"{state} r", f"q{i}", transB=1),
            node("Add", f"p{i} q{i}", f"s{i}"),
            node("Tanh", f"s{i}", f"h{i}"),
        ]
        state = f"h{i}"
    rng = np.random.default_rng(0)
    shapes = {"w": (WIDTH, WIDTH), "b": (WIDTH,), "r": (WIDTH, WIDTH)}
    weights = {key: rng.standard_normal(shape).astype(np.float32) / 3 for key, shape in shapes.items()}
    feeds = {x: rng.standard_normal((1, WIDTH)).astype(np.float32) for x in ("h", *(f"x{i}" for i in range(STEPS)))}
    return case("recurrence", nodes, feeds, weights, (state,))


def sliced(program: Program, recipe: str) -> set[str]:
    """The kernels of a recipe that have slices."""
    return {x.name for x in program.kernels.values() if x.choice.recipe == recipe and x.choice.slices}


def kept(recipe: str, connect: str, merge: str = "kept") -> tuple[Case, Settings, Program]:
    one, settings = recurrence(), settings_for(connect)
    program = plan_model(one.model, settings).program
    assert sliced(program, recipe)
    made = merged(program, MERGES[merge], UNITS)
    verify_program(made)
    return one, settings, made


def launch_of(program: Program) -> Launch:
    (launch,) = program.body
    assert isinstance(launch, Launch)
    return launch


@pytest.mark.parametrize(("recipe", "connect"), [("cuda.reduce", "epilogue"), ("cuda.rows", "welder")])
def test_tasks_read_their_slices_from_memory_of_their_units(recipe: str, connect: str) -> None:
    one, settings, program = kept(recipe, connect)
    near = [x for x in tasks_of(launch_of(program).body) if x.near is not None]
    assert any(x.kernel in sliced(program, recipe) for x in near)
    found = emulate(program, settings, inputs_of(program, one), seeds=range(2))
    agree(program.output_names, found, expected(one.model, dict(one.feeds)))


CHOICES = [
    (rows.CUDA, {"rows.block": 4, "lanes": 16, "vector": 4, "reads": 2}),
    (rows.CUDA, {"rows.block": 2, "lanes": 64, "vector": 1, "reads": 1}),
    (rows.CUDA, {"rows.block": 48, "lanes": 8, "vector": 4, "reads": 1}),
    (reduce.CUDA, {"x.block": 8, "lanes": 4}),
    (reduce.CUDA, {"x.block": 24, "lanes": 8}),
    (reduce.CUDA, {"x.block": 2, "lanes": 64}),
]


@pytest.mark.parametrize(("recipe", "params"), CHOICES, ids=[f"{x.name} {list(y.values())}" for x, y in CHOICES])
def test_every_shape_of_a_task_reads_its_slices(recipe: Recipe, params: dict[str, int]) -> None:
    one, settings = recurrence(), settings_for("welder" if recipe is rows.CUDA else "epilogue")
    program = plan_model(one.model, settings).program
    kernels = dict(program.kernels)
    for name in sliced(program, recipe.name):
        subject = subject_of(kernels[name].group, program.constants)
        assert subject is not None
        match = recipe.see(subject, load_device("h200"))
        assert match is not None
        chosen = match.choice(params)
        assert [x.slot for x in chosen.slices] == [x.slot for x in kernels[name].choice.slices]
        kernels[name] = attrs.evolve(kernels[name], choice=chosen)
    body = tuple(relaunched(x, kernels) for x in program.body)
    made = merged(attrs.evolve(program, kernels=kernels, body=body), MERGES["kept"], UNITS)
    verify_program(made)
    found = emulate(made, settings, inputs_of(made, one))
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))


def relaunched(launch: HostStep, kernels: Mapping[str, Kernel]) -> Launch:
    """The launch of a kernel with other tasks."""
    assert isinstance(launch, Launch)
    task = launch.only_task
    assert task is not None
    needs = kernels[task.kernel].choice.resources
    envelope = Envelope(needs.tasks, needs.threads, needs.registers, needs.shared_bytes)
    return attrs.evolve(launch, envelope=envelope, body=(Phase((Lane(0, const(needs.tasks), (task,)),)),))


def test_a_task_may_read_the_first_of_its_slices_near() -> None:
    one, settings, program = kept("cuda.rows", "welder", "kept in part")
    near = [x for x in tasks_of(launch_of(program).body) if x.near is not None]
    assert any(x.near.count < len(program.kernels[x.kernel].sliced) for x in near if x.near is not None)
    found = emulate(program, settings, inputs_of(program, one))
    agree(program.output_names, found, expected(one.model, dict(one.feeds)))


def changed(program: Program, fetch: bool) -> Program:
    """The program with every weight fetched from its beginning, or with one task that reads far."""
    launch = launch_of(program)
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    first = next(x for x in tasks_of(launch.body) if x.near is not None)
    lanes = []
    for lane in phase.lanes:
        items = []
        for x in lane.items:
            wrong = fetch and isinstance(x, Fetch)
            far = not fetch and isinstance(x, Task) and x == first
            items.append(attrs.evolve(x, first=const(0)) if wrong else attrs.evolve(x, near=None) if far else x)
        lanes.append(attrs.evolve(lane, items=tuple(items)))
    return attrs.evolve(program, body=(attrs.evolve(launch, body=(Phase(tuple(lanes)),)),))


def test_tasks_read_what_was_fetched_and_nothing_else() -> None:
    one, settings, program = kept("cuda.reduce", "epilogue")
    wrong = changed(program, fetch=True)
    (found,) = emulate(wrong, settings, inputs_of(program, one))
    (right,) = expected(one.model, dict(one.feeds))
    assert np.abs(found - right).max() > 0.01


def test_a_kernel_may_run_near_and_far() -> None:
    one, settings, program = kept("cuda.reduce", "epilogue")
    made = changed(program, fetch=False)
    verify_program(made)
    near = [x.near is not None for x in tasks_of(launch_of(made).body)]
    assert any(near)
    assert not all(near)
    found = emulate(made, settings, inputs_of(made, one))
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))


def test_shared_memory_holds_what_members_use_and_what_is_kept() -> None:
    _, _, program = kept("cuda.rows", "welder")
    envelope = launch_of(program).envelope
    fetched = [x for x in leaves(launch_of(program).body) if isinstance(x, Fetch)]
    assert envelope.own_bytes == max(x.offset + x.bytes for x in fetched)
    assert envelope.block_bytes >= envelope.shared_bytes + envelope.own_bytes
    assert envelope.own_offset % 16 == 0


@pytest.mark.parametrize("connect", ["epilogue", "welder"])
def test_slices_are_read_through_generic_addresses(connect: str, tmp_path: Path) -> None:
    recipe = {"epilogue": "cuda.reduce", "welder": "cuda.rows"}[connect]
    _, settings, program = kept(recipe, connect)
    output = build_program(program, settings, tmp_path)
    facts = output.data["kernels"]["tw_persistent_0"]
    assert facts["shared_bytes"] == launch_of(program).envelope.block_bytes
    assert (facts["spill_bytes"], facts["stack_bytes"]) == (0, 0)
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is needed to see the instructions")
    command = [nvcc, "-ptx", "-std=c++17", "-gencode=arch=compute_90a,code=compute_90a", "-o", "kernels.ptx"]
    subprocess.run([*command, "kernels.cu"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "kernels.ptx").read_text()
    assert "cp.async.cg.shared.global" in text
    functions = re.findall(r"\.func +(tw_member_\w+)\((.*?)\n}", text, re.S)
    assert functions
    for name, code in functions:
        kernel = program.kernels[name.removeprefix("tw_member_")]
        generic = len(re.findall(r"\tld\.(?:v\d\.)?[fubs]\d+ ", code))
        assert (generic > 0) == bool(kernel.choice.slices), name


def test_units_of_a_cpu_fetch_nothing(tmp_path: Path) -> None:
    """Their caches keep what they read; Rammer does not ask for it."""
    registry = Registry()
    registry.load()
    settings = bind(load_config({"target": "cpu"}), registry, threads=2)
    program = plan_model(recurrence().model, settings).program
    first = program.body[0]
    assert isinstance(first, Launch)
    (phase,) = first.body
    assert isinstance(phase, Phase)
    lane = attrs.evolve(phase.lanes[0], items=(Fetch(program.weights[0], const(0), 16, 0), *phase.lanes[0].items))
    body = (attrs.evolve(first, body=(Phase((lane,)),)), *program.body[1:])
    with pytest.raises(InternalError, match=first.name):
        build_program(attrs.evolve(program, body=body), settings, tmp_path)
