"""`cuda.attention` and `cuda.attention_simt` on the emulator beside float64, and their machine code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.compiler import build_program
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.ir.program import Program
from tilewright.planning.session import Session
from tilewright.plugins.manager import Registry
from tilewright.recipes import Match
from tilewright.testing import conformance
from tilewright.testing.cases import steps
from tilewright.testing.heads import Heads

FEW = (
    Heads(7, 5, 32, 32, heads=1, mask="added"),
    Heads(1, 40, 16, 32, heads=2, sharing=2, dtype="bfloat16"),
)
PLAIN = (
    Heads(7, 5, 32, 32, dtype="float32", mask="where"),
    Heads(64, 128, 64, 64, dtype="float32", mask="causal"),
    Heads(130, 200, 80, 48, heads=1, dtype="float32", mask="added", joined=True),
    Heads(1, 33, 128, 128, heads=4, sharing=2, dtype="float32"),
    Heads(33, 70, 20, 40, mask="causal added"),
)
MANY = (
    Heads(130, 200, 80, 64, heads=1, mask="causal"),
    Heads(1, 128, 64, 64, heads=3, sharing=3, dtype="bfloat16"),
    Heads(64, 128, 64, 64),
    Heads(64, 128, 64, 64, mask="where", dtype="bfloat16"),
    Heads(130, 128, 128, 128, mask="causal added"),
    Heads(7, 200, 80, 48, batch=2, mask="added", joined=True),
    Heads(65, 33, 40, 24, mask="causal", joined=True),
    Heads(64, 5, 20, 33, mask="where", dtype="bfloat16"),
    Heads(1, 200, 32, 128, heads=4, sharing=2, batch=2),
    Heads(33, 257, 128, 16, heads=1, mask="causal added", dtype="bfloat16"),
)


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"cuda:{device}"}), registry)


def in_one(module: Module, settings: Settings) -> tuple[Session, Group]:
    """The module as one group of several stages."""
    session = conformance.session_of(settings, module, connect=conformance.welded(settings.service("connect")))
    (group,) = session.connect(module.main.body).groups
    return session, group


def program_of(module: Module, group: Group, choice: TileChoice, settings: Settings) -> Program:
    connect = conformance.welded(settings.service("connect"))
    return conformance.copies(module, [(group, choice)], settings, connect)


def matched(model: onnx.ModelProto, settings: Settings, recipe: str = "cuda.attention") -> tuple[Module, Group, Match]:
    module = load(model)
    session, group = in_one(module, settings)
    (match,) = (m for m in session.matches(group) if m.recipe == recipe)
    return module, group, match


def check(
    model: onnx.ModelProto,
    feeds: Mapping[str, Any],
    wanted: Any,
    choices: int,
    recipe: str = "cuda.attention",
    settings: Settings | None = None,
) -> None:
    """Compares random allowed choices with what is wanted."""
    settings = settings or settings_for("h200")
    module, group, match = matched(model, settings, recipe)
    for choice in conformance.sample(match, choices, np.random.default_rng(choices)):
        program = program_of(module, group, choice, settings)
        (found,) = emulate(program, settings, [feeds[n] for n in module.input_names])
        problem = conformance.difference(found, wanted.astype(found.dtype))
        assert not problem, (dict(choice.params), problem)


def test_every_length_and_both_dtypes() -> None:
    for one in FEW:
        feeds = one.feeds()
        check(one.model(), feeds, one.reference(feeds), 1)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("one", MANY, ids=str)
def test_masks_layouts_and_random_choices(one: Heads) -> None:
    feeds = one.feeds()
    check(one.model(), feeds, one.reference(feeds), 3)


def test_float32_without_tensor_cores() -> None:
    one = Heads(20, 70, 20, 40, heads=1, mask="causal", joined=True, dtype="float32")
    feeds = one.feeds()
    check(one.model(), feeds, one.reference(feeds), 1, "cuda.attention_simt")


@pytest.mark.slow
@pytest.mark.parametrize("one", PLAIN, ids=str)
def test_random_choices_without_tensor_cores(one: Heads) -> None:
    feeds = one.feeds()
    check(one.model(), feeds, one.reference(feeds), 3, "cuda.attention_simt")


def plain(shapes: Mapping[str, tuple[int, ...]], nodes: str) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    inputs = [info(n, TensorProto.FLOAT16, x) for n, x in shapes.items()]
    zero = numpy_helper.from_array(np.float16(0), "zero")
    graph = helper.make_graph(steps(nodes), "g", inputs, [info("y", TensorProto.FLOAT16, None)], [zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_keys_along_memory_computed_factors_and_an_epilogue() -> None:
    shapes = {"q": (1, 9, 24), "k": (1, 24, 72), "v": (1, 72, 24), "r": (1, 9, 24)}
    model = plain(shapes, "a = Neg v; s = MatMul q k; p = Softmax s; o = MatMul p a; y = Add o r")
    rng = np.random.default_rng(5)
    feeds = {n: rng.standard_normal(x).astype(np.float16) for n, x in shapes.items()}
    q, k, v, r = (feeds[n].astype(np.float64) for n in "qkvr")
    check(model, feeds, softmax(q @ k) @ -v + r, 1)


def test_rows_that_nothing_weighs_are_nan_and_late_keys_count() -> None:
    one = Heads(16, 96, 16, 16, mask="where", heads=1)
    feeds = one.feeds()
    feeds["m"][:] = True
    feeds["m"][3] = False
    feeds["m"][4, :90] = False
    wanted = one.reference(feeds)
    assert np.isnan(wanted[0, 0, 3]).all()
    assert not np.isnan(wanted[0, 0, 4]).any()
    check(one.model(), feeds, wanted, 1)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cuda.attention", "cuda.attention_simt"])
def test_rows_whose_weights_are_cleared(recipe: str) -> None:
    shapes = {"q": (2, 20, 16), "k": (2, 16, 40), "v": (2, 40, 24), "f": (20, 1)}
    nodes = "s = MatMul q k; p = Softmax s; z = Sub f f; c = Less f z; t = Where c zero p; y = MatMul t v"
    rng = np.random.default_rng(6)
    feeds = {n: rng.standard_normal(x).astype(np.float16) for n, x in shapes.items()}
    q, k, v, f = (feeds[n].astype(np.float64) for n in "qkvf")
    wanted = np.where(f < 0, 0, softmax(q @ k)) @ v
    check(plain(shapes, nodes), feeds, wanted, 1, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"softcap": 2.0}], ids=str)
def test_the_operator_of_onnx(attributes: dict[str, Any]) -> None:
    shapes = {"q": (2, 4, 17, 32), "k": (2, 2, 40, 32), "v": (2, 2, 40, 16)}
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Attention", ["q", "k", "v"], ["y"], **attributes)],
        "g",
        [info(n, TensorProto.FLOAT16, x) for n, x in shapes.items()],
        [info("y", TensorProto.FLOAT16, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    rng = np.random.default_rng(7)
    feeds = {n: rng.standard_normal(x).astype(np.float16) for n, x in shapes.items()}
    q, k, v = (feeds[n].astype(np.float64) for n in "qkv")
    scores = q @ np.repeat(k, 2, 1).swapaxes(2, 3) / np.sqrt(32)
    if attributes.get("softcap"):
        scores = 2 * np.tanh(scores / 2)
    if attributes.get("is_causal"):
        scores = np.where(np.tri(17, 40, dtype=np.bool_), scores, -np.inf)
    check(model, feeds, softmax(scores) @ np.repeat(v, 2, 1), 2)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (Heads(8, 16, dtype="float32"), "factors of 32 bits"),
        (Heads(8, 16, depth=144), "a depth beyond what registers hold"),
        (Heads(8, 16, columns=144), "columns beyond what registers hold"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_it_does_not_take(one: Heads, why: str) -> None:
    module = load(one.model())
    session, group = in_one(module, settings_for("h200"))
    assert not any(m.recipe == "cuda.attention" for m in session.matches(group)), why


def check_machine_code(
    one: Heads, arch: str, choices: int, folder: Path, recipe: str = "cuda.attention"
) -> None:
    """No more registers than promised, and none spilled."""
    settings = settings_for(arch)
    module, group, match = matched(one.model(), settings, recipe)
    for choice in conformance.sample(match, choices, np.random.default_rng(0)):
        program = program_of(module, group, choice, settings)
        (facts,) = build_program(program, settings, folder).data["kernels"].values()
        assert 0 < facts["registers"] <= choice.resources.registers, dict(choice.params)
        assert not facts["spill_bytes"], dict(choice.params)
        assert not facts["stack_bytes"], dict(choice.params)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_sampled_choices_become_machine_code(arch: str, tmp_path: Path) -> None:
    check_machine_code(Heads(64, 96, 32, 32), arch, 1, tmp_path)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    "one",
    [
        Heads(256, 256, 128, 128),
        Heads(250, 203, 80, 80, mask="added"),
        Heads(250, 203, 128, 32, mask="where"),
        Heads(256, 256, 32, 128, dtype="bfloat16"),
        Heads(250, 203, 20, 33, mask="causal added", joined=True),
    ],
    ids=str,
)
def test_wide_heads_become_machine_code(one: Heads, arch: str, tmp_path: Path) -> None:
    check_machine_code(one, arch, 4, tmp_path)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    "one",
    [
        Heads(256, 256, 128, 128, dtype="float32"),
        Heads(250, 203, 64, 64, mask="added", dtype="float32"),
        Heads(250, 203, 20, 33, mask="causal", joined=True, dtype="float32"),
    ],
    ids=str,
)
def test_choices_without_tensor_cores_become_machine_code(one: Heads, arch: str, tmp_path: Path) -> None:
    check_machine_code(one, arch, 6, tmp_path, "cuda.attention_simt")


def test_the_cost_grows_with_the_keys() -> None:
    settings = settings_for("h200")
    costs = []
    for keys in (512, 1024, 2048):
        module = load(attrs.evolve(Heads(1024, 512, 64, 64, heads=16), keys=keys).model())
        session, group = in_one(module, settings)
        costs.append(session.propose(group)[0].cost)
    assert costs[0] < costs[1] < costs[2] < 5 * costs[0]
