"""Aligned parts of inputs stand where the input does: no kernel moves them, and readers of several are one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.compare import compare_outputs
from tilewright.compiler import plan_model
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.errors import VerifyError
from tilewright.interpret.task import run_tasks
from tilewright.ir.program import Launch, Program
from tilewright.ir.verify import verify_program
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case, case, node, steps

RNG = np.random.default_rng(3)
FRAMES = 4


def rand(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def frames(width: int, *, axis: int = 0, parts: Sequence[str] = ("a", "b", "c", "d")) -> Case:
    """Frames of a sequence, each in a product with the same weights."""
    shape = [1, 1, width]
    shape[axis] = FRAMES
    nodes = [node("Split", "x", " ".join(parts), axis=axis, num_outputs=FRAMES)]
    for part in parts:
        nodes += [node("Reshape", f"{part} flat", f"{part}1"), *steps(f"{part}2 = MatMul {part}1 w")]
    weights = {"w": rand(width, 8), "flat": np.array([1, -1])}
    return case("frames", nodes, {"x": rand(*shape)}, weights=weights, outputs=[f"{x}2" for x in parts])


def planned(one: Case, target: str = "cpu", **slots: str) -> tuple[Program, Any]:
    settings = bind(load_config({"target": target, "slots": slots}), Registry())
    return plan_model(one.model, settings).program, settings


def parts_of(program: Program) -> dict[str, int]:
    """Offsets of the values that stand in inputs and are none."""
    given = {x.name for x in program.inputs}
    return {n: p.offset for n, p in program.storage.placements.items() if p.buffer in given and n not in given}


def agrees(one: Case, program: Program, settings: Any) -> None:
    expected: Any = ReferenceEvaluator(one.model).run(None, dict(one.feeds))
    inputs = [np.asarray(one.feeds[n]) for n in program.input_names]
    found = [run_tasks(program, inputs)]
    if str(settings.target).startswith("cuda"):
        found.append(emulate(program, settings, inputs))
    else:
        found.append(tilewright.compile(one.model, target="cpu", cache=False).run(None, dict(one.feeds)))
    for outputs in found:
        for agreement in compare_outputs(list(program.output_names), outputs, expected):
            assert agreement.ok, agreement


@pytest.mark.parametrize("target", ["cpu", "cuda:h200"])
@pytest.mark.parametrize("connect", ["epilogue", "welder", "singletons"])
def test_readers_of_several_parts_are_one_kernel(connect: str, target: str) -> None:
    one = frames(32)
    program, settings = planned(one, target, connect=connect)
    verify_program(program)
    assert sorted(parts_of(program).values()) == [0, 128, 256, 384]
    assert len(program.kernels) == 1
    agrees(one, program, settings)


def test_a_part_that_is_not_aligned_is_read_through() -> None:
    one = frames(20)
    program, settings = planned(one)
    assert list(parts_of(program).values()) == [0], "the others begin at multiples of 80 bytes"
    agrees(one, program, settings)


def test_a_part_that_is_not_contiguous_is_read_through() -> None:
    nodes = [node("Split", "x", "a b", axis=1, num_outputs=2), *steps("p = MatMul a w; q = MatMul b w; y = Add p q")]
    one = case("columns", nodes, {"x": rand(4, 64)}, weights={"w": rand(32, 8)})
    program, settings = planned(one)
    assert parts_of(program) == {}
    agrees(one, program, settings)


def test_a_part_that_is_an_output_is_copied() -> None:
    nodes = [node("Split", "x", "a y", axis=0, num_outputs=2), *steps("z = Relu a")]
    one = case("half", nodes, {"x": rand(2, 32)}, outputs=("y", "z"))
    program, settings = planned(one)
    assert list(parts_of(program).values()) == [0]
    agrees(one, program, settings)


def test_what_writes_a_part_is_refused() -> None:
    program, _ = planned(frames(32))
    name = next(iter(parts_of(program)))
    launch = next(x for x in program.body if isinstance(x, Launch))
    task = launch.only_task
    assert task is not None
    wrong = attrs.evolve(task, args=(*task.args[:-1], name))
    phase = launch.body[0]
    lane = attrs.evolve(phase.lanes[0], items=(wrong,))  # type: ignore[union-attr]
    changed = attrs.evolve(launch, body=(attrs.evolve(phase, lanes=(lane,)),))
    body = tuple(changed if x is launch else x for x in program.body)
    with pytest.raises(VerifyError):
        verify_program(attrs.evolve(program, body=body))
