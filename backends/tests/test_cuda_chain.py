"""`cuda.chain` and `cuda.chain_wgmma` on the emulator beside float64, and their machine code."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.test_cuda_attention import in_one, program_of, settings_for
from tilewright.compiler import build_program
from tilewright.config.binding import Settings
from tilewright.frontend import load
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.recipes import Match, evaluate
from tilewright.testing import conformance
from tilewright.testing.cases import Case, case, node, steps
from tilewright_backends.recipes.cuda.flat_chain import Chain

BOTH = ("cuda.chain", "cuda.chain_wgmma")
BFLOAT = np.dtype(ml_dtypes.bfloat16)
HALF = np.dtype(np.float16)
REGISTERS = 65536
"""Of a multiprocessor."""


def rand(rng: np.random.Generator, *shape: int, dtype: Any = HALF) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def layers(rows: Sequence[int], sizes: Sequence[int], dtype: Any = HALF) -> tuple[Case, Any]:
    """Linear layers with a rectifier between them, and what they give in float64."""
    rng = np.random.default_rng(len(sizes))
    x = rand(rng, *rows, sizes[0], dtype=dtype)
    wanted = x.astype(np.float64)
    nodes: list[onnx.NodeProto] = []
    weights = {}
    for i, (k, n) in enumerate(itertools.pairwise(sizes)):
        w, b = (rng.standard_normal((k, n)) * (2 / k) ** 0.5).astype(dtype), rand(rng, n, dtype=dtype)
        weights |= {f"w{i}": w, f"b{i}": b}
        wanted = wanted @ w.astype(np.float64) + b.astype(np.float64)
        nodes += steps(f"p{i} = MatMul {f'r{i - 1}' if i else 'x'} w{i}; q{i} = Add p{i} b{i}")
        if i < len(sizes) - 2:
            wanted = np.maximum(wanted, 0)
            nodes += steps(f"r{i} = Relu q{i}")
    last = f"q{len(sizes) - 2}"
    return case("layers", nodes, {"x": x}, weights, outputs=(last,)), wanted


def matched(one: Case, settings: Settings, recipe: str) -> tuple[Module, Group, Match | None]:
    module = load(one.model)
    session, group = in_one(module, settings)
    return module, group, next((m for m in session.matches(group) if m.recipe == recipe), None)


def check(one: Case, wanted: Sequence[Any], recipe: str, choices: int = 1, **params: int) -> None:
    """Compares random allowed choices, or the one given, with what is wanted."""
    settings = settings_for("h200")
    module, group, match = matched(one, settings, recipe)
    assert match is not None
    rng = np.random.default_rng(choices)
    sampled = [match.choice(params)] if params else conformance.sample(match, choices, rng)
    assert sampled
    for choice in sampled:
        found = emulated(module, group, choice, settings, one.feeds)
        for mine, theirs in zip(found, wanted, strict=True):
            problem = conformance.difference(mine, theirs.astype(mine.dtype))
            assert not problem, (dict(choice.params), problem)


def emulated(
    module: Module, group: Group, choice: TileChoice, settings: Settings, feeds: Mapping[str, Any]
) -> Sequence[Any]:
    return emulate(program_of(module, group, choice, settings), settings, [feeds[n] for n in module.input_names])


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize(
    ("rows", "sizes", "dtype"),
    [((70,), (64, 64, 64, 3), HALF), ((2, 37), (64, 256, 256, 5), BFLOAT), ((33,), (16, 200, 72, 65), HALF)],
    ids=str,
)
def test_layers(recipe: str, rows: tuple[int, ...], sizes: tuple[int, ...], dtype: Any) -> None:
    one, wanted = layers(rows, sizes, dtype)
    check(one, [wanted], recipe, 2)


@pytest.mark.parametrize("sizes", [(20, 45, 33, 3), (8, 17, 1)], ids=str)
def test_sizes_that_nothing_divides(sizes: tuple[int, ...]) -> None:
    one, wanted = layers((37,), sizes)
    check(one, [wanted], "cuda.chain", 3)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("dtype", [HALF, BFLOAT], ids=str)
@pytest.mark.parametrize("rows", [2, 63, 64, 129, 300])
def test_every_number_of_rows(recipe: str, dtype: Any, rows: int) -> None:
    one, wanted = layers((rows,), (64, 128, 192, 48), dtype)
    check(one, [wanted], recipe, 3)


@pytest.mark.slow
def test_one_row() -> None:
    one, wanted = layers((1,), (64, 128, 192, 48))
    check(one, [wanted], "cuda.chain", 3)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("sizes", [(64,) * 7 + (3,), (256,) * 4 + (3,), (96, 32, 250, 600), (72, 8, 8, 72)], ids=str)
def test_every_size(recipe: str, sizes: tuple[int, ...]) -> None:
    one, wanted = layers((140,), sizes)
    check(one, [wanted], recipe, 4)


def test_columns_in_several_walks_and_rows_in_two_buffers() -> None:
    one, wanted = layers((50,), (64, 136, 100, 40))
    tiles = {"m.block": 32, "n.block": 32, "k.step": 32, "m.warp": 16, "n.warp": 16, "stages": 4}
    check(one, [wanted], "cuda.chain", **tiles)


def test_a_block_stays_for_many_tiles_of_rows() -> None:
    one, wanted = layers((132 * 64 * 2 + 9,), (16, 16, 8))
    check(one, [wanted], "cuda.chain_wgmma", **{"m.block": 64, "n.block": 64, "m.group": 64, "stages": 2})


@pytest.mark.parametrize("recipe", BOTH)
def test_residuals_and_results_of_inner_links(recipe: str) -> None:
    rng = np.random.default_rng(3)
    x, r, v, u = (rand(rng, *s) for s in ((3, 21, 40), (3, 21, 24), (40, 24), (24, 40)))
    nodes = steps("h = MatMul x v; t = Add h r; s = Tanh t; p = MatMul s u; y = Add p x")
    one = case("residual", nodes, {"x": x, "r": r}, {"v": v * HALF.type(0.2), "u": u}, outputs=("s", "y"))
    wide = [a.astype(np.float64) for a in (x, r, v * HALF.type(0.2), u)]
    inner = np.tanh(wide[0] @ wide[2] + wide[1])
    check(one, [inner, inner @ wide[3] + wide[0]], recipe, 2)


@pytest.mark.parametrize("recipe", BOTH)
def test_weights_along_the_reduction(recipe: str) -> None:
    rng = np.random.default_rng(4)
    x, v, u = rand(rng, 70, 64), rand(rng, 128, 64), rand(rng, 24, 128)
    nodes = [node("Gemm", "x v", "h", transB=1), *steps("s = Sigmoid h"), node("Gemm", "s u", "y", transB=1)]
    wide = [a.astype(np.float64) for a in (x, v, u)]
    wanted = 1 / (1 + np.exp(-wide[0] @ wide[1].T)) @ wide[2].T
    check(case("transposed", nodes, {"x": x}, {"v": v, "u": u}), [wanted], recipe, 2)


def test_rows_that_are_computed_and_lie_across_memory() -> None:
    rng = np.random.default_rng(5)
    x, v, u = rand(rng, 2, 24, 7, 5), rand(rng, 40, 24, 1, 1), rand(rng, 10, 40, 1, 1)
    nodes = [node("Conv", "x v", "s"), *steps("t = Relu s; y = Conv t u")]
    wide = [a.astype(np.float64) for a in (x, v[:, :, 0, 0], u[:, :, 0, 0])]
    inner = np.maximum(np.einsum("bchw,oc->bohw", wide[0], wide[1]), 0)
    wanted = np.einsum("bchw,oc->bohw", inner, wide[2])
    check(case("pointwise", nodes, {"x": x}, {"v": v, "u": u}), [wanted], "cuda.chain", 2)


def test_columns_that_are_no_constants() -> None:
    rng = np.random.default_rng(7)
    x, v, u = (rand(rng, *s) for s in ((50, 32), (32, 48), (48, 16)))
    wide = [a.astype(np.float64) for a in (x, v, u)]
    one = case("inputs", steps("h = MatMul x v; y = MatMul h u"), {"x": x, "v": v, "u": u})
    check(one, [wide[0] @ wide[1] @ wide[2]], "cuda.chain", 2)


def test_what_is_passed_on_is_rounded() -> None:
    """A sum of 1 and half a unit in the last place: with more digits than float16 has, differences would not vanish."""
    k = 32
    x = np.ones((16, k), HALF)
    first = np.zeros((k, k), HALF)
    first[0], first[1] = 1, 2.0**-11
    one = case("rounded", steps("h = MatMul x v; y = MatMul h u"), {"x": x}, {"v": first, "u": np.eye(k, dtype=HALF)})
    settings = settings_for("h200")
    for recipe in BOTH:
        module, group, match = matched(one, settings, recipe)
        assert match is not None
        (choice,) = conformance.sample(match, 1, np.random.default_rng(0))
        (found,) = emulated(module, group, choice, settings, one.feeds)
        assert (found == 1).all()


@pytest.mark.parametrize("recipe", BOTH)
def test_what_fills_tiles_is_zero_whatever_the_epilogue_makes_of_it(recipe: str) -> None:
    """One over a sum is infinite beyond the columns, and times the zeros there it would be NaN."""
    v, u = np.ones((16, 9), HALF), np.ones((9, 8), HALF)
    one = case(
        "beyond",
        steps("h = MatMul x v; r = Reciprocal h; y = MatMul r u"),
        {"x": np.ones((5, 16), HALF)},
        {"v": v, "u": u},
    )
    check(one, [np.full((5, 8), 9 / 16)], recipe)


def session_recipes(one: Case) -> set[str]:
    session, group = in_one(load(one.model), settings_for("h200"))
    return {m.recipe for m in session.matches(group)}


@pytest.mark.parametrize(
    ("text", "shapes", "why"),
    [
        ("h = MatMul x v; y = MatMul u h", {"v": (32, 32), "u": (32, 16)}, "the second product mixes rows"),
        ("h = MatMul x v; p = MatMul h u; y = Add p h", {"v": (32, 32), "u": (32, 32)}, "a residual from on chip"),
        ("h = MatMul x v; y = MatMul h h", {"v": (32, 16)}, "columns that are made on chip"),
        ("h = MatMul x v; t = Transpose h; y = MatMul t u", {"v": (32, 16), "u": (16, 32)}, "columns become rows"),
    ],
    ids=lambda x: x if isinstance(x, str) and " = " not in x else "",
)
def test_what_it_does_not_take(text: str, shapes: dict[str, tuple[int, ...]], why: str) -> None:
    rng = np.random.default_rng(6)
    weights = {name: rand(rng, *shape) for name, shape in shapes.items()}
    assert not session_recipes(case("other", steps(text), {"x": rand(rng, 16, 32)}, weights)) & set(BOTH), why


def test_float32_is_not_taken() -> None:
    one, _ = layers((16,), (32, 32, 32), np.float32)
    assert not session_recipes(one) & set(BOTH)


def test_links_are_what_the_model_says() -> None:
    one, _ = layers((2, 37), (64, 256, 72, 3))
    _, _, match = matched(one, settings_for("h200"), "cuda.chain")
    assert match is not None
    chain = match.detail
    assert isinstance(chain, Chain)
    assert chain.row_count == 74
    assert [(x.depth, x.width) for x in chain.links] == [(64, 256), (256, 72), (72, 3)]
    assert [x.passed is None for x in chain.links] == [False, False, True]
    # A row of three columns is no multiple of 16 bytes; all others are copied as they lie.
    assert [x.packed is None for x in chain.links] == [True, True, False]


def test_weights_are_read_by_every_block() -> None:
    """l2: what a block of 64 rows reads is its rows and all weights, padded to whole tiles; results are written."""
    one, _ = layers((640,), (64, 64, 64))
    _, _, match = matched(one, settings_for("h200"), "cuda.chain")
    assert match is not None
    tiles = {"m.block": 64, "n.block": 64, "k.step": 64, "m.warp": 32, "n.warp": 32, "stages": 2}
    columns = {name: np.asarray([size], np.int64) for name, size in tiles.items()}
    assert evaluate(match.work.flops, columns)[0] == 2 * 640 * 64 * 64 * 2
    assert evaluate(match.work.traffic["l2"], columns)[0] == 2 * (640 * 64 + 10 * 2 * 64 * 64 + 640 * 64)


def check_machine_code(
    sizes: tuple[int, ...], arch: str, recipe: str, choices: int, folder: Path, spilled: int = 0
) -> None:
    """As many blocks fit on a multiprocessor as the promised registers say, and hardly a register is spilled."""
    one, _ = layers((4096,), sizes)
    settings = settings_for(arch)
    module, group, match = matched(one, settings, recipe)
    assert match is not None
    for choice in conformance.sample(match, choices, np.random.default_rng(0)):
        program = program_of(module, group, choice, settings)
        (facts,) = build_program(program, settings, folder).data["kernels"].values()
        # Each quarter of a multiprocessor has registers for some warps.
        promised = (facts["registers"], choice.resources.registers)
        blocks = [max(REGISTERS // 4 // (-(-x // 8) * 8 * 32) * 128 // facts["threads"], 1) for x in promised]
        assert blocks[0] >= blocks[1] > 0, dict(choice.params)
        assert facts["spill_bytes"] <= spilled, dict(choice.params)


@pytest.mark.parametrize(
    ("arch", "recipe"), [("sm_80", "cuda.chain"), ("sm_90a", "cuda.chain"), ("sm_90a", "cuda.chain_wgmma")]
)
def test_sampled_choices_become_machine_code(arch: str, recipe: str, tmp_path: Path) -> None:
    check_machine_code((64, 64, 72, 3), arch, recipe, 1, tmp_path)


@pytest.mark.slow(every=4)
@pytest.mark.parametrize(
    ("arch", "recipe"), [("sm_80", "cuda.chain"), ("sm_90a", "cuda.chain"), ("sm_90a", "cuda.chain_wgmma")]
)
@pytest.mark.parametrize("sizes", [(256,) * 7 + (3,), (64,) * 7 + (3,), (96, 250, 80, 600), (20, 45, 33, 3)], ids=str)
def test_long_chains_become_machine_code(sizes: tuple[int, ...], arch: str, recipe: str, tmp_path: Path) -> None:
    if recipe == "cuda.chain_wgmma" and sizes[0] % 8:
        pytest.skip("rows of 40 bytes cannot be fetched as boxes")
    check_machine_code(sizes, arch, recipe, 4, tmp_path, spilled=256)


def test_one_kernel_pays_for_many_rows_and_not_for_few() -> None:
    """What the separate kernels cost together, beside the chain: weights that every block reads need many rows each."""
    settings = settings_for("h200")
    ratios = {}
    for rows in (128, 65536):
        module = load(layers((rows,), (256,) * 5)[0].model)
        session = conformance.session_of(settings, module)
        apart = sum(session.propose(group)[0].cost for group in session.connect(module.main.body).groups)
        together, group = in_one(module, settings)
        ratios[rows] = together.propose(group)[0].cost / apart
    assert ratios[65536] < 1 < ratios[128]
