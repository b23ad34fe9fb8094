"""Groups of several stages: their parts, what passes between them, and programs that consist of them."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from core.tests.views.evaluated import run
from core.tests.views.staged_models import (
    GROUP,
    LAYER,
    MIDDLE,
    RESIDUAL,
    SCALED,
    SOFTMAX,
    group_of,
    operands,
    rand,
    stages_of,
)
from tilewright.device import load_device
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.group import Group, Level
from tilewright.ir.keys import canonical
from tilewright.ir.program import Program
from tilewright.ir.serial import dump, load
from tilewright.ir.text import print_program
from tilewright.ir.verify import verify_program
from tilewright.planning.trial import trial_program
from tilewright.testing.cases import Case, case, node, steps
from tilewright.testing.conformance import reference
from tilewright.views.staged import StagedSpec, staged_of
from tilewright.views.subject import subject_of

KEPT = {
    "softmax": (SOFTMAX, 4, ["y_max", "y_exp", "y_sum"]),
    "middle": (MIDDLE, 4, ["y_max", "y_exp", "y_sum"]),
    "scaled": (SCALED, 5, ["v_t", "y_max", "y_exp", "y_sum"]),
    "layer": (LAYER, 3, ["y_mean", "y_inverse"]),
    "group": (GROUP, 3, ["y_mean", "y_inverse"]),
    "residual": (RESIDUAL, 4, ["v_t", "y_mean", "y_inverse"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_stages_and_what_they_keep(name: str) -> None:
    one, count, kept = KEPT[name]
    staged = stages_of(one)
    assert len(staged.stages) == count
    assert [x.name for x in staged.kept] == kept
    assert not set(staged.kept) & set(staged.inputs)


@pytest.mark.parametrize("name", KEPT)
def test_stages_one_after_the_other_mean_what_the_model_means(name: str) -> None:
    one, _, _ = KEPT[name]
    module, group = group_of(one)
    staged = staged_of(group, module.constants)
    assert staged is not None
    values = operands(one, module)
    for stage in staged.stages:
        assert {x.name for x in stage.inputs} <= set(values), "it reads what is not there yet"
        values |= run(stage, values)
    for value, wanted in zip(module.main.body.results, reference(one), strict=True):
        np.testing.assert_allclose(values[value.name], wanted, rtol=1e-5, atol=1e-5)


def test_what_is_read_outside_too_is_an_output() -> None:
    staged = stages_of(RESIDUAL)
    assert [x.name for x in staged.outputs] == ["v_t", "y"]
    assert staged.kept[0] in staged.outputs
    assert staged.constants == {"s", "b"}


def test_levels_decide_what_the_subject_is() -> None:
    module, group = group_of(RESIDUAL)
    assert isinstance(subject_of(group, module.constants), StagedSpec)
    fused = attrs.evolve(group, levels=tuple((name, "register") for name, _ in group.levels))
    assert subject_of(fused, module.constants) is None  # two reductions in one nest
    assert canonical(group).key != canonical(fused).key


def test_stages_come_after_what_they_read() -> None:
    module, group = group_of(SCALED)
    turned = staged_of(attrs.evolve(group, ops=group.ops[::-1]), module.constants)
    assert turned is not None
    assert [x.outputs for x in turned.stages] == [x.outputs for x in stages_of(SCALED).stages]


def test_stages_that_need_each_other_are_none() -> None:
    one = case("circle", steps("e = Exp x; n = Neg e; m = ReduceMax n; y = Add e m"), {"x": rand(3, 4)})
    module, group = group_of(one)
    first, second, third = (name for op in group.ops[:3] for name in [v.name for v in op.outputs if v is not None])
    levels: tuple[tuple[str, Level], ...] = ((first, "register"), (second, "shared"), (third, "shared"))
    # The ends of the chain in one nest, through registers, and the reduction between them in another.
    assert staged_of(attrs.evolve(group, levels=levels), module.constants) is None
    levels = ((first, "shared"), *levels[1:])
    assert staged_of(attrs.evolve(group, levels=levels), module.constants) is not None


@pytest.mark.parametrize(
    "one",
    [
        case("scan", steps("c = CumSum x a; y = Softmax c"), {"x": rand(3, 5)}, {"a": np.int64(1)}),
        case("top", [node("TopK", "x k", "v i"), node("Softmax", "v", "y")], {"x": rand(3, 9)}, {"k": np.array([4])}),
    ],
    ids=lambda x: x.name,
)
def test_what_is_no_loop_nest_is_no_stage(one: Case) -> None:
    module, group = group_of(one)
    assert staged_of(group, module.constants) is None


@pytest.mark.parametrize("one", [SOFTMAX, RESIDUAL], ids=lambda x: x.name)
def test_programs_of_staged_groups(one: Case) -> None:
    module, group = group_of(one)
    choice = TileChoice("test.rows", {"rows.block": 2}, Resources(tasks=3, threads=32))
    program = trial_program(group, choice, frozenset())
    verify_program(program, load_device("h200"))
    assert load(dump(group), Group) == group
    assert load(dump(program), Program) == program
    assert "shared y_inverse" in print_program(program) or "shared y_exp" in print_program(program)
    values = operands(one, module)
    feeds = [values[x.name] for x in program.inputs]
    wanted = interpret(module, [one.feeds[name] for name in module.input_names])
    for seed in range(3):
        for found, expected in zip(run_tasks(program, feeds, seed), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)
