# ruff: noqa: E501  (the tables have one case per line)
"""Every law of groups, covers and tile choices, each with an IR that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given

from core.tests.ir import samples
from core.tests.ir.strategies import modules
from core.tests.ir.test_verify_module import refused
from tilewright.device import load_device
from tilewright.ir.choice import Packing, Resources, TileChoice
from tilewright.ir.expr import Load, Var, const
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.module import Module
from tilewright.ir.ops import Region, TensorOp, Write, combiner, value
from tilewright.ir.verify import choice, groups, operators, verify_choice, verify_cover, verify_group
from tilewright.recipes import Constraint, Match, Parameter, Usage, Work

SAMPLE = samples.cover()
FIRST = SAMPLE.items[0]
assert isinstance(FIRST, Group)


def with_items(change: Callable[[list[Any]], list[Any]]) -> Cover:
    return attrs.evolve(SAMPLE, items=tuple(change(list(SAMPLE.items))))


def with_first(**changes: Any) -> Cover:
    return with_items(lambda items: [attrs.evolve(items[0], **changes), *items[1:]])


def diamond(*cut: tuple[int, ...], order: tuple[int, ...] = ()) -> Cover:
    """`b = f(a), c = f(b), d = f(a), e = c + d` with its operators 0 to 3 cut into groups."""
    a, b, c, d, e = (value(n, "float32", [4]) for n in "abcde")
    add = samples.elementwise("add", c, e, Load(0, "float32") + Load(1, "float32"))
    add = attrs.evolve(add, reads=(add.reads[0], attrs.evolve(add.reads[0], value=d)))
    ops = (samples.elementwise("fb", a, b), samples.elementwise("fc", b, c), samples.elementwise("fd", a, d), add)
    region = Region((a,), ops, (e,))
    made = []
    for members in cut:
        inside = {op.name for op in (ops[i] for i in members)}
        outputs = [
            v
            for i in members
            for v in ops[i].outputs
            if v == e or any(v in op.inputs for op in ops if op.name not in inside)
        ]
        made.append(Group("".join(map(str, members)), tuple(ops[i] for i in members), tuple(outputs)))
    return Cover(region, tuple(made[i] for i in order) if order else tuple(made))


def test_the_sample_and_all_cuts_of_a_diamond_keep_the_laws() -> None:
    verify_cover(SAMPLE)
    for cut in ([(0,), (1,), (2,), (3,)], [(0, 1), (2,), (3,)], [(0, 1, 2, 3)], [(2,), (0, 1, 3)], [(0,), (1, 2, 3)]):
        verify_cover(diamond(*cut))


@given(modules())
def test_singletons_and_the_whole_keep_the_laws(made: Module) -> None:
    region = made.main.body
    singles = tuple(Group(op.name, (op,), op.outputs) for op in region.ops)  # type: ignore[arg-type]
    verify_cover(Cover(region, singles))
    verify_cover(Cover(region, (Group("all", region.ops, region.results),)))  # type: ignore[arg-type]


def recomputed() -> Cover:
    """Operator 0 in two groups: recompute, which is allowed as long as only one of them gives the value out."""
    region = diamond((0,), (1,), (2,), (3,)).region
    b, c = region.ops[0], region.ops[1]
    outer = Region(region.params, (b, c), (b.outputs[0], c.outputs[0]))  # type: ignore[arg-type]
    return Cover(outer, (Group("g", (b,), b.outputs), Group("h", (b, c), c.outputs, (("b", "register"),))))  # type: ignore[arg-type]


def test_recompute_is_allowed() -> None:
    verify_cover(recomputed())


def without_outputs(cover: Cover, at: int) -> Cover:
    changed = attrs.evolve(cover.items[at], outputs=())  # type: ignore[arg-type]
    return attrs.evolve(cover, items=(*cover.items[:at], changed, *cover.items[at + 1 :]))


loop_item = next(x for x in SAMPLE.items if isinstance(x, ControlItem))
act = FIRST.ops[1]
COVERS: dict[str, tuple[Callable[[], Cover], str, str]] = {
    "two items of one name": (lambda: with_items(lambda x: [x[0], attrs.evolve(x[1], name="g0"), *x[2:]]), groups.UNIQUE, "item g0"),
    "empty group": (lambda: with_items(lambda x: [Group("none", (), ()), *x]), groups.UNIQUE, "group none"),
    "operator in no group": (lambda: diamond((0,), (1,), (3,)), groups.COVERED, "operator fd"),
    "operator that is not the region's": (lambda: with_first(ops=(FIRST.ops[0], attrs.evolve(act, name="other"))), groups.COVERED, "operator other"),
    "value that nobody gives out": (lambda: without_outputs(diamond((0,), (1,), (2, 3)), 0), groups.NEEDED, "item 1"),
    "result that nobody gives out": (lambda: without_outputs(diamond((0,), (1,), (2, 3)), 2), groups.NEEDED, "results"),
    "value given out twice": (lambda: attrs.evolve(recomputed(), items=(recomputed().items[0], attrs.evolve(recomputed().items[1], outputs=recomputed().items[0].outputs + recomputed().items[1].outputs))), groups.ONCE, "item h"),
    "group that is left and entered again": (lambda: diamond((1,), (0, 3), (2,)), groups.CONVEX, "item 1"),
    "groups in the wrong order": (lambda: diamond((0,), (1,), (2,), (3,), order=(1, 0, 2, 3)), groups.ORDERED, "item 1"),
    "operators in the wrong order": (lambda: with_first(ops=FIRST.ops[::-1]), groups.ORDERED, "operator act"),
    "output that it does not make": (lambda: with_first(outputs=SAMPLE.items[1].outputs), groups.OUTPUTS, "group g0"),
    "output of another shape": (lambda: with_first(outputs=(value("z", "float16", [4]),)), groups.OUTPUTS, "group g0"),
    "level of a value from outside": (lambda: with_first(levels=(("x", "shared"),)), groups.LEVELS, "group g0"),
    "level of a value that is not read": (lambda: with_first(levels=(("z", "shared"),)), groups.LEVELS, "group g0"),
    "two levels of one value": (lambda: with_first(levels=FIRST.levels * 2), groups.LEVELS, "group g0"),
    "stream over one reduction": (lambda: with_first(stream="k"), groups.STREAM, "group g0"),
    "control over another region": (lambda: with_items(lambda x: [attrs.evolve(i, bodies=()) if i == loop_item else i for i in x]), groups.BODIES, "item repeat"),
    "broken cover of a loop's body": (lambda: with_items(lambda x: [attrs.evolve(i, bodies=(attrs.evolve(i.bodies[0], items=()),)) if i == loop_item else i for i in x]), groups.COVERED, "item repeat, body 0"),
    "rewritten operator that breaks a law": (lambda: with_first(trail=("fold",), ops=(attrs.evolve(FIRST.ops[0], combiner=combiner("sum", "float64")), act)), operators.REDUCE, "operator conv"),
}  # fmt: skip


@pytest.mark.parametrize("case", COVERS)
def test_broken_covers_are_refused(case: str) -> None:
    make, law, place = COVERS[case]
    refused(lambda: verify_cover(make()), law, place, "cover")


def test_rewritten_groups_may_differ_from_the_region_by_their_trail() -> None:
    renamed = attrs.evolve(act, name="act2")
    verify_cover(with_first(ops=(FIRST.ops[0], renamed), trail=("rename",)))


def test_a_group_by_itself() -> None:
    verify_group(FIRST)
    refused(lambda: verify_group(attrs.evolve(FIRST, ops=FIRST.ops[::-1])), groups.ORDERED, "group, g0")
    shifted = attrs.evolve(act, writes=(Write(act.outputs[0], (const(0),) * 4),))
    assert isinstance(shifted, TensorOp)
    refused(lambda: verify_group(attrs.evolve(FIRST, ops=(FIRST.ops[0], shifted))), "exactly once", "operator act")


m, n = Var("m"), Var("n")
MATCH = Match(
    "sample",
    {"m": ("i",)},
    {"m": 64},
    (Parameter("m", (8, 16, 32), 8, "m", "block"), Parameter("n", (1, 2))),
    (Constraint(m * n, const(64), "shared bytes"),),
    Usage(tasks=const(64) // m, threads=m * 2, shared_bytes=m * n * 4),
    Work(const(128), {}),
)
H200 = load_device("h200")
GOOD = MATCH.choice({"m": 16, "n": 2})


def test_a_choice_of_the_formulas_keeps_the_laws() -> None:
    verify_choice(GOOD, MATCH, H200)


def resources(**changes: Any) -> TileChoice:
    return attrs.evolve(GOOD, resources=attrs.evolve(GOOD.resources, **changes))


CHOICES: dict[str, tuple[TileChoice, Match, str, str]] = {
    "another recipe": (attrs.evolve(GOOD, recipe="other"), MATCH, choice.RECIPE, "'other'"),
    "a parameter missing": (attrs.evolve(GOOD, params={"m": 16}), MATCH, choice.RECIPE, "sample"),
    "a parameter too many": (attrs.evolve(GOOD, params={"m": 16, "n": 2, "k": 1}), MATCH, choice.RECIPE, "sample"),
    "not aligned": (attrs.evolve(GOOD, params={"m": 12, "n": 2}), MATCH, choice.CONSTRAINTS, "multiple of 8"),
    "over a constraint": (attrs.evolve(GOOD, params={"m": 40, "n": 2}), MATCH, choice.CONSTRAINTS, "shared bytes: 80 > 64"),
    "other threads than the formula's": (resources(threads=31), MATCH, choice.RESOURCES, "threads"),
    "other tasks than the formula's": (resources(tasks=1), MATCH, choice.RESOURCES, "tasks"),
    "packing over unknown dims": (attrs.evolve(GOOD, packings=(Packing(0, (("a", 2),), (("i", Var("b")),)),)), MATCH, choice.PACKINGS, "packing of read 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_broken_choices_are_refused(case: str) -> None:
    made, match, law, place = CHOICES[case]
    refused(lambda: verify_choice(made, match, H200), law, place, "choice, sample" if case != "another recipe" else "")


@pytest.mark.parametrize(
    ("usage", "what"),
    [
        (Usage(tasks=const(1), threads=const(2048)), "threads"),
        (Usage(tasks=const(1), shared_bytes=const(1 << 20)), "shared bytes"),
        (Usage(tasks=const(1), threads=const(1024), registers=const(255)), "registers"),
        (Usage(tasks=const(0)), "0 tasks"),
    ],
)
def test_choices_beyond_the_device_are_refused(usage: Usage, what: str) -> None:
    match = attrs.evolve(MATCH, usage=usage)
    refused(lambda: verify_choice(match.choice({"m": 16, "n": 2}), match, H200), choice.DEVICE, what)


def test_resources_have_a_formula_each() -> None:
    assert {f.name for f in attrs.fields(Usage)} == {f.name for f in attrs.fields(Resources)}
