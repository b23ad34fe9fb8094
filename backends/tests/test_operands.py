"""What recipes say of the tensors that they move, against numbers worked out by hand and by counting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tilewright.compiler import device_of, recipes_of
from tilewright.config import Config
from tilewright.config.binding import Settings, bind
from tilewright.frontend import load
from tilewright.ir.expr import const, variables
from tilewright.plugins.manager import Registry
from tilewright.recipes import Match, Operand
from tilewright.testing.cases import Case, case, node
from tilewright.testing.conformance import session_of, welded
from tilewright.testing.corpus import corpus

TARGETS = ("cpu", "cuda:h200")


def settings_for(target: str) -> Settings:
    return bind(Config(target=target), Registry())


def matches(model: Case, settings: Settings) -> list[Match]:
    """What recipes see of the model's kernels, and of all of them as stages."""
    module = load(model.model)
    connect = settings.service("connect")
    found = []
    for connector in (connect, welded(connect)):
        session = session_of(settings, module, connect=connector)
        found += [m for group in session.connect(module.main.body).groups for m in session.matches(group)]
    return found


def match_of(recipe: str, nodes: Any, inputs: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> Match:
    settings = settings_for("cpu" if recipe.startswith("cpu") else "cuda:h200")
    found = matches(case("one", nodes, inputs, weights), settings)
    return next(m for m in found if m.recipe == recipe)


def array(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def test_a_matrix_product() -> None:
    match = match_of("cuda.simt", [node("MatMul", "a b", "y")], {"a": array(48, 20), "b": array(20, 36)})
    assert match.operands == (
        Operand("a", 4, 960, ("m", "k"), "k", 1, 20, padding=4),
        Operand("b", 4, 720, ("n", "k"), "n", 1, 36, padding=4),
        Operand("y", 4, 1728, ("m", "n"), "n", 1, 36, outside=True),
    )
    assert match.reduced == {"k"}
    assert list(match.tiles) == ["register", "shared"]


def test_constants_are_stored_as_they_are_read() -> None:
    match = match_of("cuda.simt", [node("Gemm", "a w", "y", transB=1)], {"a": array(48, 20)}, {"w": array(36, 20)})
    assert match.operands[1] == Operand("w", 4, 720, ("n", "k"), "n", 1, 36, padding=4)
    match = match_of("cuda.simt", [node("Gemm", "a w", "y", transB=1)], {"a": array(48, 20), "w": array(36, 20)})
    assert match.operands[1] == Operand("w", 4, 720, ("n", "k"), "k", 1, 20, padding=4)


def test_an_operand_of_the_epilogue_is_moved_once() -> None:
    nodes = [node("MatMul", "a b", "m"), node("Add", "m r", "y")]
    match = match_of("cpu.contraction", nodes, {"a": array(9, 8), "b": array(8, 7), "r": array(7)})
    residual = next(x for x in match.operands if x.name == "r")
    assert residual == Operand("r", 4, 7, ("cols",), "cols", 1, 7, outside=True)
    assert match.reduced == {"depth"}


@pytest.mark.parametrize("recipe", ["cpu.nest", "cuda.map"])
@pytest.mark.parametrize("bias", [False, True])
def test_of_a_table_a_kernel_moves_the_rows_that_it_reads(recipe: str, bias: bool) -> None:
    nodes = [node("Gather", "table at", "row" if bias else "y", axis=0)]
    given: dict[str, Any] = {"table": array(1000, 96), "at": np.asarray([7, 300, 12])}
    if bias:
        nodes.append(node("Add", "row b", "y"))
        given["b"] = array(3, 96)
    moved = match_of(recipe, nodes, given).work.traffic["dram"]
    assert moved == const(4 * 3 * 96 * (3 if bias else 2) + 3 * 8)


def test_a_window_with_strides() -> None:
    nodes = [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2])]
    match = match_of("cpu.nest", nodes, {"x": array(1, 4, 9, 11)})
    source = match.operands[0]
    # A row has five windows, two elements apart; a window has three elements side by side, which is fewer to a line.
    # Windows overlap, so not every product of axes is another element.
    assert (source.stride, source.run) == (2, 5)
    assert source.along in ("outer", "inner")
    assert source.elements == 4 * 9 * 11
    assert match.reduced == {"reduce"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_match_is_described(target: str, dtype: str) -> None:
    settings = settings_for(target)
    seen = set()
    for one in corpus(dtype):
        for match in matches(one, settings):
            seen.add(match.recipe)
            assert set(match.roles) == set(match.extents)
            names = {p.name for p in match.parameters}
            for level, tile in match.tiles.items():
                assert level in ("register", "block") or device_of(settings).level(level)
                assert set(tile) <= set(match.roles)
                assert variables(*tile.values()) <= names
            assert any(x.outside for x in match.operands) or not match.reduced
            for operand in match.operands:
                assert set(operand.roles) <= set(match.roles)
                assert operand.along in (*operand.roles, "")
                points = np.prod([match.extents[r] for r in operand.roles])
                assert operand.elements <= points
                assert operand.run <= max(match.extents.get(operand.along, 1), 1)
    kinds = ("attention", "chain", "chain_wgmma", "mma", "thin", "wgmma", "wgmma_ring")
    halves = {f"cuda.{x}" for x in kinds}
    wanted = {name for name in recipes_of(settings) if dtype == "float16" or name not in halves}
    assert seen >= wanted
