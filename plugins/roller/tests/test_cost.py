"""The performance model against numbers worked out by hand, on a device with round ones."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from plugins.roller.tests.test_rtile import columns, product
from tilewright.device import DeviceModel, MemoryLevel, load_device
from tilewright.ir.expr import Expr, Var, const
from tilewright.recipes import Match, Operand, Parameter, Usage, Work
from tilewright_roller.cost import Prediction, make, predict

GPU = DeviceModel(
    name="round",
    kind="cuda",
    arch="",
    units=10,
    peak={"fma": 1e12},
    levels=(
        MemoryLevel("dram", 1 << 40, 1e11, 32, shared_by_units=True),
        MemoryLevel("l2", 1 << 20, 1e12, 32, shared_by_units=True),
        MemoryLevel("shared", 1 << 16, 1e13, 128),
    ),
    warp=32,
    max_threads_per_block=1024,
    max_threads_per_unit=1024,
    max_blocks_per_unit=8,
    registers_per_unit=1 << 16,
    shared_per_block=1 << 16,
    launch_seconds=1e-6,
    step_seconds=1e-8,
)
CPU = attrs.evolve(
    GPU,
    kind="cpu",
    units=2,
    levels=(MemoryLevel("dram", 1 << 40, 1e10, 64, True), MemoryLevel("l3", 1 << 24, 1e11, 64, True)),
)
T = Var("tasks")


def kernel(
    flops: int = 0, dram: int = 0, l2: int = 0, serial: int = 0, threads: int = 1024, tasks: Expr = T, **usage: Any
) -> Match:
    """A kernel whose one parameter is its number of tasks, without tiles."""
    return Match(
        recipe="test.kernel",
        roles={},
        extents={},
        parameters=(Parameter("tasks", (1, 1000)),),
        constraints=(),
        usage=Usage(tasks, const(threads), **usage),
        work=Work(const(flops), {"dram": const(dram), "l2": const(l2)}, serial=const(serial)),
    )


def seconds(match: Match, tasks: int, device: DeviceModel = GPU) -> Prediction:
    return predict(match, {"tasks": np.asarray([tasks], np.int64)}, device)


def test_waves_are_whole() -> None:
    # 1e9 operations by ten units of 1e11 a second each; eleven tasks keep one unit busy twice.
    for tasks, share in ((10, 1 / 10), (11, 2 / 11), (20, 2 / 20), (21, 3 / 21), (1, 1.0)):
        assert seconds(kernel(10**9), tasks).parts["compute"][0] == pytest.approx(1e9 * share / 1e11)


def test_few_warps_leave_the_unit_waiting() -> None:
    # Two warps of the four that a unit issues from: half the pace. Two such tasks side by side make up for it.
    assert seconds(kernel(10**9, threads=64), 10).parts["compute"][0] == pytest.approx(2e-3)
    assert seconds(kernel(10**9, threads=64), 20).parts["compute"][0] == pytest.approx(1e-3)
    # Not where each takes more than half of the shared memory.
    alone = kernel(10**9, threads=64, shared_bytes=const(40000))
    assert seconds(alone, 20).parts["compute"][0] == pytest.approx(2e-3)


def test_a_unit_draws_at_most_twice_its_share_of_memory() -> None:
    moved = kernel(dram=10**6)
    assert seconds(moved, 10).parts["dram"][0] == pytest.approx(1e6 / 1e11)
    assert seconds(moved, 5).parts["dram"][0] == pytest.approx(1e6 / 1e11)
    assert seconds(moved, 1).parts["dram"][0] == pytest.approx(1e6 / 2e10)


def test_the_slowest_part_counts_and_others_hide_behind_it() -> None:
    # Ten tasks of 32 warps, eight to each scheduler: of what is not the slowest a ninth stays visible.
    found = seconds(kernel(flops=10**9, dram=10**7, serial=5), 10)
    compute, memory, steps = 1e-3, 1e7 / 1e11, 5e-8
    assert found.total[0] == pytest.approx(compute + memory / 9 + steps + 1e-6)
    assert found.bound(0) == "compute"


def test_rounds_of_steps() -> None:
    # 30 tasks, three to a unit, of which one fits at a time.
    assert seconds(kernel(serial=4), 30).parts["steps"][0] == pytest.approx(3 * 4 * 1e-8)
    assert seconds(kernel(serial=4, threads=256), 30).parts["steps"][0] == pytest.approx(4 * 1e-8)


def test_bytes_under_way_limit_memory() -> None:
    slow = attrs.evolve(GPU.level("dram"), latency=1e-6)
    device = attrs.evolve(GPU, levels=(slow, *GPU.levels[1:]))
    operand = Operand("x", 4, 10**6, ("x",), "x", 1, 10**6)
    result = Operand("y", 4, 10**6, ("x",), "x", 1, 10**6, outside=True)
    match = attrs.evolve(
        kernel(dram=8 * 10**6, threads=128),
        roles={"x": ()},
        extents={"x": 10**6},
        operands=(operand, result),
        tiles={"block": {"x": const(128)}},
    )
    # Eight blocks that read 128 elements are 4096 bytes under way to a unit, which take a microsecond.
    assert seconds(match, 7820, device).parts["dram"][0] == pytest.approx(8e6 / 10 / 4096e6, rel=0.01)
    assert seconds(match, 7820).parts["dram"][0] == pytest.approx(8e6 / 1e11, rel=0.01)


def test_a_cache_that_holds_everything_loads_it_once() -> None:
    match = attrs.evolve(product(256, 256, 256), work=Work(const(1), {"dram": const(3 * 4 * 256**2)}))
    tile = columns(m_block=64, n_block=64, k_step=8, m_thread=8, n_thread=8)
    parts = predict(match, tile, GPU).parts
    # 16 tiles, two of them for six of the ten units.
    assert parts["dram"][0] == pytest.approx(3 * 4 * 256**2 * (2 / 16) / 1e10)


def test_a_cache_that_is_too_small_loads_again_for_each_wave() -> None:
    size = 4096
    once = 3 * 4 * size**2
    match = attrs.evolve(product(size, size, size), work=Work(const(1), {"dram": const(once)}))
    tile = columns(m_block=128, n_block=128, k_step=8, m_thread=8, n_thread=8)
    # 32 x 32 tiles of 256 threads; four fit on each of ten units, so a wave is 40 tiles: 32 columns, two rows of them.
    wave = 4 * (2 * 128 * size + size * size + 2 * 128 * size)
    waves = -(-1024 // 40)
    missing = 1 - (1 << 20) / once
    wanted = once + (wave * waves - once) * missing
    share = -(-1024 // 10) / 1024
    match = attrs.evolve(match, usage=attrs.evolve(match.usage, shared_bytes=const(16000), registers=const(32)))
    assert predict(match, tile, GPU).parts["dram"][0] == pytest.approx(wanted * share / 1e10)


def test_levels_that_the_recipe_leaves_out_are_those_of_the_tiles() -> None:
    tile = columns(m_block=64, n_block=64, k_step=8, m_thread=8, n_thread=8)
    parts = predict(product(), tile, GPU).parts
    # Through l2: a and b once per 16 tiles of the other side, y once; 256 tiles, 26 of them for the busiest unit.
    moved = 4 * (2 * 1024**2 * 16 + 1024**2)
    assert parts["l2"][0] == pytest.approx(moved * (26 / 256) / 1e11)
    # Through shared memory: for tiles of 8 x 8 in registers.
    moved = 4 * (2 * 1024**3 / 8 + 1024**2)
    assert parts["shared"][0] == pytest.approx(moved * (26 / 256) / 1e12)


def test_threads_of_a_cpu() -> None:
    # Two threads; three tasks make one of them work twice, and no warp is waited for.
    for tasks, share in ((1, 1.0), (2, 0.5), (3, 2 / 3), (4, 0.5)):
        assert seconds(kernel(10**9, threads=1), tasks, CPU).parts["compute"][0] == pytest.approx(share * 1e9 / 5e11)


def test_stages_hide_more() -> None:
    match = attrs.evolve(kernel(10**9, 10**8, threads=128), parameters=(Parameter("tasks", (1, 1000)),))
    few, many = (
        predict(match, {"tasks": np.asarray([10]), "stages": np.asarray([n])}, GPU).total[0] for n in (1, 4)
    )
    compute, memory = 1e-3, 1e-3
    assert few - many == pytest.approx(memory / 2 - memory / 5)
    assert many > compute


def test_the_service_gives_the_total() -> None:
    match = kernel(10**9, 10**7)
    some = {"tasks": np.asarray([1, 10, 25], np.int64)}
    np.testing.assert_array_equal(make()(match, some, GPU), predict(match, some, GPU).total)


def test_real_devices_give_finite_times() -> None:
    tile = columns(m_block=64, n_block=64, k_step=8, m_thread=8, n_thread=8)
    for name in ("h200", "h100", "a100", "v100"):
        found = predict(product(), tile, load_device(name))
        assert 1e-6 < found.total[0] < 1e-2
