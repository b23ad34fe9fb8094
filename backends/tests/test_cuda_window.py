"""`cuda.window`: every kind of sliding window on the emulator, its order of summation, and its machine code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.facts import check_registers
from tilewright.compiler import build_program, plan_model, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.plugins.manager import Registry
from tilewright.recipes import Match
from tilewright.testing import conformance
from tilewright.testing.cases import Case, case, node
from tilewright.testing.dimensions import with_dimensions
from tilewright_backends.recipes.gpu.slides import Slide
from tilewright_backends.recipes.gpu.window import Window


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_for("h200")


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"cuda:{device}"}), registry)


def array(*shape: int, dtype: str = "float32") -> Any:
    rng = np.random.default_rng(sum(shape))
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def depthwise(shape: Sequence[int], window: Sequence[int], dtype: str = "float32", **attributes: Any) -> Case:
    """A convolution of every channel with its own window, a bias and Relu behind it."""
    channels = shape[1]
    nodes = [node("Conv", "x w b", "c", group=channels, **attributes), node("Relu", "c", "y")]
    weights = {"w": array(channels, 1, *window, dtype=dtype), "b": array(channels, dtype=dtype)}
    return case("depthwise", nodes, {"x": array(*shape, dtype=dtype)}, weights=weights)


def pool(kind: str, x: Any, outputs: str = "y", **attributes: Any) -> Case:
    return case(kind, [node(kind, "x", outputs, **attributes)], {"x": x}, outputs=tuple(outputs.split()))


def integers() -> Case:
    """A depthwise convolution of int8, summed in int32."""
    conv = node("ConvInteger", "x w", "y", group=3, pads=[1, 1, 1, 1])
    return case("integers", [conv], {"x": array(1, 3, 6, 9, dtype="uint8"), "w": array(3, 1, 3, 3, dtype="int8")})


CASES = {
    "uneven pads": depthwise((2, 3, 9, 13), (5, 5), strides=[2, 2], pads=[1, 1, 2, 2]),
    "rows of one tile": depthwise((2, 5, 7, 7), (7, 7), pads=[3, 3, 3, 3]),
    "dilated": depthwise((1, 3, 15, 14), (3, 3), dilations=[2, 3], pads=[2, 0, 1, 4]),
    "dilated with strides": depthwise((1, 2, 15, 17), (3, 4), dilations=[3, 2], strides=[2, 3]),
    "wide": depthwise((1, 2, 4, 70), (2, 5), strides=[1, 3], pads=[0, 2, 1, 2]),
    "one dimension": depthwise((2, 3, 41), (5,), pads=[2, 1]),
    "three dimensions": depthwise((1, 2, 4, 5, 9), (2, 3, 3), pads=[0, 1, 1, 1, 1, 1]),
    "half": depthwise((1, 4, 10, 11), (3, 3), "float16", pads=[1, 1, 1, 1]),
    "double": depthwise((1, 2, 6, 7), (3, 3), "float64"),
    "integers": integers(),
    "maximum": pool("MaxPool", array(2, 3, 10, 13), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 1]),
    "dilated maximum of bytes": pool(
        "MaxPool", array(1, 3, 11, 9, dtype="int8"), kernel_shape=[3, 2], dilations=[2, 1], strides=[1, 1]
    ),
    "average": pool("AveragePool", array(2, 3, 12, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 1]),
    "average of rows that nothing fills": pool(
        "AveragePool", array(1, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
}

PLACES = pool("MaxPool", array(1, 2, 9, 10), "y i", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
"""Apart, because the reference evaluator is wrong about places."""


def match_of(one: Case, settings: Settings) -> Match:
    """The only match of the recipe in a case."""
    session = conformance.session_of(settings, load(one.model))
    (found,) = [
        m
        for group in session.connect(load(one.model).main.body).groups
        for m in session.matches(group)
        if m.recipe == "cuda.window"
    ]
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CASES)
def test_windows_of_every_kind(name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "run", emulate)
    report = conformance.check_recipe("cuda.window", settings, 4, 1, [CASES[name]])
    assert report.kernels == 1
    assert report.choices == 4
    assert not report.failures, report.failures


@pytest.mark.parametrize(
    "one", [CASES["uneven pads"], CASES["dilated"], CASES["three dimensions"], CASES["half"], PLACES]
)
def test_outputs_are_reduced_in_the_order_of_the_plain_loop(one: Case, settings: Settings) -> None:
    module = load(one.model)
    session = conformance.session_of(settings, module)
    (group,) = session.connect(module.main.body).groups
    found = {m.recipe: m for m in session.matches(group)}
    plain = found["cuda.reduce"].choice({"x.block": 32, "lanes": 1})
    tiled = found["cuda.window"].choice({"y.thread": 2, "x.thread": 3, "threads": 32})
    program = conformance.copies(module, [(group, plain), (group, tiled)], settings)
    found_arrays = emulate(program, settings, [one.feeds[n] for n in module.input_names])
    results = len(module.main.body.results)
    for wanted, result in zip(found_arrays[:results], found_arrays[results:], strict=True):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (pool("MaxPool", array(1, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2]), "windows that do not overlap"),
        (pool("GlobalAveragePool", array(2, 3, 7, 7)), "one window"),
        (pool("AveragePool", array(1, 3, 20, 20), kernel_shape=[9, 9]), "too many steps to unroll"),
        (case("row", [node("ReduceMean", "x a", "y")], {"x": array(9, 33)}, {"a": np.asarray([1])}), "a row"),
        (
            case("conv", [node("Conv", "x w", "y")], {"x": array(1, 4, 9, 9)}, weights={"w": array(4, 4, 3, 3)}),
            "channels are summed too",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_other_reductions_are_left_alone(one: Case, why: str, settings: Settings) -> None:
    session = conformance.session_of(settings, load(one.model))
    groups = session.connect(load(one.model).main.body).groups
    assert not any(m.recipe == "cuda.window" for group in groups for m in session.matches(group)), why


def test_places_that_outputs_share() -> None:
    assert Slide(2, 1).places(3, 5) == 9
    assert Slide(1, 2).places(4, 3) == 8
    assert Slide(2, 3).places(2, 2) == 4
    assert Slide(0, 1).places(4, 3) == 3
    assert Slide(1, 1, shared=False).places(4, 3) == 12
    assert Slide(2, 1).overlaps(2, 3)
    assert not Slide(2, 1).overlaps(9, 2)
    assert Slide(1, 3).overlaps(4, 2)
    assert not Slide(1, 3).overlaps(3, 9)


def test_what_a_thread_reads(settings: Settings) -> None:
    window = match_of(CASES["uneven pads"], settings).detail
    assert isinstance(window, Window)
    assert (window.rows, window.columns) == (4, 6)
    image, weights = window.slides_y[:2]
    assert (image.stride, image.dilation, image.shared) == (2, 1, True)
    assert (weights.stride, weights.dilation) == (0, 1)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_sampled_choices_become_machine_code(arch: str, tmp_path: Path) -> None:
    settings = settings_for(arch)
    rng = np.random.default_rng(0)
    for one in (depthwise((8, 16, 40, 40), (7, 7), strides=[2, 2], pads=[3, 3, 3, 3]), PLACES):
        module = load(one.model)
        session = conformance.session_of(settings, module)
        (group,) = session.connect(module.main.body).groups
        match = next(m for m in session.matches(group) if m.recipe == "cuda.window")
        check_registers(module, group, conformance.sample(match, 5, rng), settings, tmp_path)


def test_a_block_of_a_network_is_built_with_it(settings: Settings, tmp_path: Path) -> None:
    one = depthwise((8, 32, 56, 56), (3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    program = plan_module(load(one.model), settings).program
    (kernel,) = program.kernels.values()
    assert kernel.choice.recipe == "cuda.window"
    (facts,) = build_program(program, settings, tmp_path).data["kernels"].values()
    assert facts["registers"] <= kernel.choice.resources.registers
    assert not facts["spill_bytes"]


def test_a_batch_of_any_size(settings: Settings) -> None:
    one = depthwise((1, 24, 31, 30), (5, 5), strides=[2, 2], pads=[1, 2, 2, 2])
    model = with_dimensions(one.model, {"x": ("n", "", "", "")})
    program = plan_model(model, settings, {"n": range(1, 20)}).program
    (kernel,) = program.kernels.values()
    assert kernel.choice.recipe == "cuda.window"
    for count in (1, 19):
        x = array(count, *one.feeds["x"].shape[1:])
        (found,) = emulate(program, settings, [x], {"n": count})
        (wanted,) = conformance.reference(Case(one.name, one.model, {"x": x}))
        assert not conformance.difference(found, wanted)
