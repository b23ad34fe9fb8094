"""The conformance kit: what a recipe has to hold, for ours and for third parties' alike.

A recipe's law: every choice that meets its constraints compiles and computes the right thing. The kit samples
choices for each kernel of the corpus that the recipe matches, builds them together in one program, runs it on
poisoned outputs and compares with ONNX's reference evaluator in float64 (float32 for what has no float64
meaning).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from tilewright.compiler import device_of, recipes_of
from tilewright.config.binding import Settings
from tilewright.frontend import load
from tilewright.ir import dtypes
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Cover, Group, KernelOp
from tilewright.ir.module import Module
from tilewright.ir.ops import Op, Region, Routine, ScanOp, TensorOp, Value
from tilewright.ir.program import HostStep, Program
from tilewright.planning.propose.divisors import combinations
from tilewright.planning.requests import Connect, Request
from tilewright.planning.session import Session
from tilewright.recipes import Match, Recipe
from tilewright.runtime.immediate import run
from tilewright.testing.cases import Case
from tilewright.testing.corpus import corpus
from tilewright.testing.spread import kind_of, spread
from tilewright.views.staged import StagedSpec

_Matched = tuple[Case, Module, list[tuple[Group, Match]]]
"""A case, and the groups of its module that a recipe takes."""

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest allowed ‖a − b‖ / ‖b‖ by dtype; integers and booleans must be equal."""


@attrs.frozen
class Failure:
    """A choice that was allowed and did not compute the right thing."""

    case: str
    choice: TileChoice
    problem: str


@attrs.frozen
class Report:
    """What was sampled for one recipe: number of kernels it matched and of choices run, and the failures."""

    recipe: str
    kernels: int
    choices: int
    failures: tuple[Failure, ...]


def check_recipe(
    recipe: str,
    settings: Settings,
    samples: int = 200,
    seed: int = 0,
    cases: Sequence[Case] | None = None,
    most: int | None = None,
) -> Report:
    """Samples choices of a recipe over the corpus and runs them.

    Args:
        recipe: name of a registered recipe of the configured target.
        samples: choices in all, spread over the kernels that the recipe matches.
        cases: by default the whole corpus.
        most: how many of the kernels that the recipe matches are taken, of different kinds first; by default all.
    """
    rng = np.random.default_rng(seed)
    record = recipes_of(settings)[recipe]
    assert device_of(settings).kind == record.target
    connect = welded(settings.service("connect")) if record.takes is StagedSpec else settings.service("connect")
    matched: list[_Matched] = []
    for one in cases if cases is not None else (*corpus("float32"), *corpus("float16")):
        module = load(one.model)
        session = session_of(settings, module, [record], connect=connect)
        groups = session.connect(module.main.body).groups
        found = [(group, m) for group in groups for m in session.matches(group) if m.recipe == recipe]
        if found:
            matched.append((one, module, found))
    if most is not None:
        matched = _some(matched, most)
    kernels = sum(len(found) for _, _, found in matched)
    failures: list[Failure] = []
    number = ran = 0
    for one, module, found in matched:
        picks: list[tuple[Group, TileChoice]] = []
        for group, match in found:
            share = samples // kernels + (number < samples % kernels)
            picks += [(group, choice) for choice in sample(match, max(share, 1), rng)]
            number += 1
        ran += len(picks)
        failures += wrong(one, module, picks, settings, connect)
    return Report(recipe, kernels, ran, tuple(failures))


def example(recipe: str, settings: Settings, seed: int = 0) -> tuple[Case, Program] | None:
    """A case of the corpus with a program that runs one of its kernels by the recipe, under a choice from the seed.

    None where the recipe matches no kernel of the corpus.
    """
    rng = np.random.default_rng(seed)
    record = recipes_of(settings)[recipe]
    plain = settings.service("connect")
    connect = welded(plain) if record.takes is StagedSpec else plain
    for one in (*corpus("float32"), *corpus("float16")):
        module = load(one.model)
        session = session_of(settings, module, [record], connect=connect)
        for group in session.connect(module.main.body).groups:
            for match in session.matches(group):
                if match.recipe == recipe and (choices := sample(match, 1, rng)):
                    return one, copies(module, [(group, choices[0])], settings, connect)
    return None


def _some(matched: Sequence[_Matched], most: int) -> list[_Matched]:
    """At most so many of the matched kernels, and the cases of these."""
    kernels = [(i, one) for i, (_, _, found) in enumerate(matched) for one in found]
    taken = spread(kernels, most, lambda kernel: kind_of(kernel[1][0]))
    return [
        (case, module, [one for _, one in own])
        for i, own in itertools.groupby(taken, lambda kernel: kernel[0])
        for case, module, _ in [matched[i]]
    ]


def sample(match: Match, count: int, rng: np.random.Generator) -> list[TileChoice]:
    """Up to `count` different choices that meet the match's constraints, every other one between the candidates."""
    columns = combinations(match)
    rows = np.flatnonzero(match.allowed(columns))
    named = [{name: int(column[row]) for name, column in columns.items()} for row in rng.permutation(rows)[:count]]
    between = _between(match, count, rng)
    mixed = [x for pair in itertools.zip_longest(named, between) for x in pair if x is not None]
    different = {tuple(x.items()): x for x in mixed}
    return [match.choice(params) for params in list(different.values())[:count]]


def _between(match: Match, count: int, rng: np.random.Generator) -> list[dict[str, int]]:
    """Up to `count` choices with any values that the parameters' alignment allows, in random order."""
    drawn = 64 * count
    columns = {}
    for p in match.parameters:
        low, high = -(-p.candidates[0] // p.align), p.candidates[-1] // p.align
        free = rng.integers(low, high + 1, drawn) * p.align
        columns[p.name] = np.where(rng.random(drawn) < 0.5, free, rng.choice(p.candidates, drawn)).astype(np.int64)
    if not columns:
        return []
    rows = np.flatnonzero(match.allowed(columns))[:count]
    return [{name: int(column[row]) for name, column in columns.items()} for row in rows]


def session_of(
    settings: Settings, module: Module, recipes: Sequence[Recipe] | None = None, **services: Any
) -> Session:
    """A session for a module.

    Args:
        recipes: by default all of the configured target.
        services: for slots that should not be filled as configured.
    """
    recipes = list(recipes_of(settings).values()) if recipes is None else recipes
    made = {slot: settings.service(slot) for slot in settings.slots} | services
    session = Session(str(settings.target), device_of(settings), recipes, made, frozenset(module.constants))
    session.turns_weights = False
    return session


def welded(connect: Connect) -> Connect:
    """A connector that makes one group of several stages of all that `connect` makes groups of.

    What passes between those groups stays on chip. A recipe that takes `StagedSpec` sees such groups in tests, whatever
    the configured connector welds.
    """

    def weld(region: Region, request: Request) -> Cover:
        cover = connect(region, request)
        groups = cover.groups
        read = {value for group in groups for value in group.inputs}
        levels = dict(level for group in groups for level in group.levels)
        levels |= {v.name: "shared" for group in groups for v in group.outputs if v in read}
        ops = dict.fromkeys(op for group in groups for op in group.ops)
        outputs = dict.fromkeys(v for group in groups for v in group.outputs if v in region.results)
        return Cover(region, (Group("welded", tuple(ops), tuple(outputs), tuple(levels.items())),))

    return weld


def wrong(
    one: Case,
    module: Module,
    picks: Sequence[tuple[Group, TileChoice]],
    settings: Settings,
    connect: Connect | None = None,
) -> list[Failure]:
    """The picked choices under which a model computes something else than the reference.

    One program is built and run, with a copy of the model for each choice of one of its groups.

    Args:
        connect: what made the groups; by default the configured connector.
    """
    expected = reference(one)
    try:
        program = copies(module, picks, settings, connect)
        found = run(program, settings, [one.feeds[name] for name in module.input_names])
    except Exception as error:
        error.add_note(f"in case {one.name!r} with {', '.join(str(choice.as_dict()) for _, choice in picks)}")
        raise
    per_copy = len(expected)
    failures = []
    for i, (_, choice) in enumerate(picks):
        for output, wanted in zip(found[i * per_copy : (i + 1) * per_copy], expected, strict=True):
            problem = difference(output, wanted)
            if problem:
                failures.append(Failure(one.name, choice, problem))
                break
    return failures


def copies(
    module: Module,
    picks: Sequence[tuple[Group, TileChoice]],
    settings: Settings,
    connect: Connect | None = None,
) -> Program:
    """A program that computes the module once per pick: the group with that choice, the others with their best.

    Args:
        connect: what made the groups; by default the configured connector.
    """
    body = module.main.body
    base = session_of(settings, module, connect=connect or settings.service("connect"))
    cover = base.connect(body)
    items: list[Group] = []
    results: list[Value] = []
    given: dict[str, TileChoice] = {}
    for i, (group, choice) in enumerate(picks):
        made = {v.name for item in cover.items for v in item.outputs}
        for item in cover.groups:
            copy = _renamed(item, made, f".copy{i}")
            items.append(copy)
            if item.name == group.name:
                given[copy.name] = choice
        results += [attrs.evolve(v, name=f"{v.name}.copy{i}") for v in body.results]
    ops: tuple[Op, ...] = tuple(op for item in items for op in item.ops)
    region = Region(body.params, ops, tuple(results))
    whole = Cover(region, tuple(items))

    def place(covered: Cover, request: Request) -> tuple[HostStep, ...]:
        session = request.session
        return session.schedule([session.plan(item, given.get(item.name)) for item in covered.groups], request)

    session = session_of(settings, module, base.recipes, connect=lambda region, request: whole, control_place=place)
    program: Program = session.service("planner")(module.with_main(region), session)
    return program


def _renamed(group: Group, made: set[str], suffix: str) -> Group:
    def of(value: Value) -> Value:
        return attrs.evolve(value, name=value.name + suffix) if value.name in made else value

    ops: list[KernelOp] = []
    for op in group.ops:
        if isinstance(op, Routine):
            inputs, outputs = tuple(map(of, op.inputs)), tuple(map(of, op.outputs))
            ops.append(attrs.evolve(op, name=op.name + suffix, inputs=inputs, outputs=outputs))
            continue
        assert isinstance(op, TensorOp | ScanOp), "the corpus holds no operator of the host"
        ops.append(
            attrs.evolve(
                op,
                name=op.name + suffix,
                reads=tuple(attrs.evolve(r, value=of(r.value)) for r in op.reads),
                writes=tuple(attrs.evolve(w, value=of(w.value)) for w in op.writes),
            )
        )
    levels = tuple((name + suffix if name in made else name, level) for name, level in group.levels)
    return Group(group.name + suffix, tuple(ops), tuple(of(v) for v in group.outputs), levels, group.trail)


def reference(one: Case) -> list[npt.NDArray[Any]]:
    """The case's outputs by ONNX's reference evaluator, floats computed in float64 where the operators have
    it.
    """
    feeds = dict(one.feeds)
    return [np.asarray(x) for x in ReferenceEvaluator(_widened(one.model)).run(None, _widened_feeds(feeds))]


def _widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its float tensors in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    narrow = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for info in (*wide.graph.input, *wide.graph.output, *wide.graph.value_info):
        if info.type.tensor_type.elem_type in narrow:
            info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in wide.graph.initializer:
        if tensor.data_type in narrow:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return wide


def _widened_feeds(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()}


def difference(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> str:
    """What is wrong with an output, or ""."""
    if found.shape != wanted.shape:
        return f"shape {found.shape} instead of {wanted.shape}"
    dtype = dtypes.from_numpy(found.dtype)
    if not dtypes.is_float(dtype):
        wrong = int(np.sum(found != wanted))
        return f"{wrong} of {found.size} elements differ" if wrong else ""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if not (np.isnan(a) == np.isnan(b)).all():
        return f"NaN in {int(np.isnan(a).sum())} elements instead of {int(np.isnan(b).sum())}"
    error = float(np.linalg.norm(np.nan_to_num(a - b)) / (np.linalg.norm(np.nan_to_num(b)) or 1.0))
    return f"relative error {error:.2e}" if error > TOLERANCE[dtype] else ""
