"""Corners of CUDA's scans, selections and empty kernels: on the emulator, and on the device where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.facts import check_registers
from tilewright.compiler import device_of, plan_module, recipes_of
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Load, Var, apply, const
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import Access, Axis, Op, Region, Routine, ScanOp, Value, Write, value
from tilewright.ir.program import Program
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import run
from tilewright.testing import conformance
from tilewright.testing.cases import case, node
from tilewright.views.subject import subject_of

Runner = Callable[[Program, Settings, Sequence[Any]], Sequence[Any]]
Params = Sequence[Mapping[str, int]]
RUNNERS = (pytest.param(emulate, id="emulated"), pytest.param(run, id="device", marks=pytest.mark.gpu))
LENGTH, COUNT = 150, 9
"""Elements of a row, which three pieces of 64 slots take, and how many are selected."""


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"cuda:{device}"}), registry)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_for("h200")


def module_of(params: Sequence[Value], ops: Sequence[Op], results: Sequence[Value]) -> Module:
    region = Region(tuple(params), tuple(ops), tuple(results))
    return Module({"main": Function("main", region)})


def chosen(module: Module, settings: Settings, recipe: str, params: Params) -> tuple[Program, int]:
    """A program with each kernel of the recipe under each choice, and how many copies of the module that makes."""
    device, known = device_of(settings), recipes_of(settings)[recipe]
    picks = []
    for kernel in plan_module(module, settings).program.kernels.values():
        match = known.see(subject_of(kernel.group), device)  # type: ignore[arg-type]
        picks += [] if match is None else [(kernel.group, match.choice(given)) for given in params]
    assert picks
    return conformance.copies(module, picks, settings), len(picks)


def check(
    module: Module, feeds: Sequence[Any], settings: Settings, runner: Runner, recipe: str, params: Params
) -> None:
    """What the choices compute is what the interpreter says, to the bit."""
    program, copies = chosen(module, settings, recipe, params)
    found = runner(program, settings, feeds)
    with np.errstate(all="ignore"):
        wanted = interpret(module, feeds)
    assert len(found) == copies * len(wanted)
    for number, array in enumerate(found):
        expected = wanted[number % len(wanted)]
        wide = np.float64 if dtypes.is_float(dtypes.from_numpy(array.dtype)) else array.dtype
        np.testing.assert_array_equal(array.astype(wide), expected.astype(wide))


def awkward(dtype: str, rng: np.random.Generator) -> Any:
    """Three rows with many equal elements; floats with NaN, infinities and both zeros, integers with their extremes."""
    shape = (3, LENGTH)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtypes.is_float(dtype):
        pool = np.asarray([0.0, -0.0, 1.5, -1.5, 3.0, np.inf, -np.inf, np.nan])
    else:
        low, high = dtypes.integer_range(dtype)
        pool = np.asarray([low, high, 0, 1, 2, 3], dtypes.to_numpy(dtype))
    return pool[rng.integers(0, len(pool), shape)].astype(dtypes.to_numpy(dtype))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("recipe", "params"),
    [
        ("cuda.topk", [{"threads": 64}]),
        ("cuda.topk_sort", [{"piece": 64, "threads": 32}]),
    ],
)
def test_a_selection_of_any_type_is_stable(recipe: str, params: Params, runner: Runner, settings: Settings) -> None:
    rng = np.random.default_rng(0)
    values, ops, feeds = [], [], []
    for dtype in (*dtypes.FLOATS, "int64", "int8", "uint64", "uint16", "bool"):
        x = value(f"x_{dtype}", dtype, (3, LENGTH))
        values.append(x)
        feeds.append(awkward(dtype, rng))
        for largest in (True, False):
            name = f"{dtype}_{largest}"
            outputs = value(f"v_{name}", dtype, (3, COUNT)), value(f"i_{name}", "int64", (3, COUNT))
            ops.append(Routine(name, "topk", (x,), outputs, {"count": COUNT, "largest": largest}, 1))
    module = module_of(values, ops, [v for op in ops for v in op.outputs])
    check(module, feeds, settings, runner, recipe, params)


def recurrence(name: str, x: Value, init: Sequence[Expr], step: Sequence[Expr], results: Iterable[Expr]) -> ScanOp:
    """Over the rows of `x`, written backwards."""
    rows, length = x.static_shape()
    at, t = Var("i"), Var("t")
    made = tuple(results)
    outputs = [value(f"{name}_{n}", r.dtype, (rows, length)) for n, r in enumerate(made)]
    writes = tuple(Write(v, (at, length - 1 - t)) for v in outputs)
    reads = (Access(x, (at, t)),)
    return ScanOp(
        name, (Axis("i", const(rows)),), Axis("t", const(length)), reads, tuple(init), tuple(step), made, writes
    )


def scans(x: Value) -> list[ScanOp]:
    """Recurrences that only one thread can run, and those that lanes can share, with the states before and after."""
    load, p0, p1, s0 = Load(0, x.dtype), Var("p0", x.dtype), Var("p1", x.dtype), Var("s0", x.dtype)
    zero, one = const(0, x.dtype), const(1, x.dtype)
    two = recurrence(f"two_{x.dtype}", x, (zero, one), (p1 - load, p0), (p0, s0, Var("s1", x.dtype)))
    shared = [
        recurrence(f"{op}_{x.dtype}", x, (one,), (apply(op, p0, load),), (p0, s0))
        for op in ("add", "mul", "min", "max")
    ]
    turned = recurrence(f"turned_{x.dtype}", x, (zero,), (load * one + p0,), (s0,))
    return [two, *shared, turned]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint16", "int32", "int64", "uint64"])
def test_recurrences_of_any_type(dtype: str, runner: Runner, settings: Settings) -> None:
    """Terms of -1, 0 and 1, with which floats compute exactly in any order."""
    x = value("x", dtype, (13, 50))
    low = 0 if dtype in dtypes.UNSIGNED else -1
    terms = np.random.default_rng(0).integers(low, 2, (13, 50)).astype(dtypes.to_numpy(dtype))
    for lanes in (1, 2, 32):
        ops = scans(x) if lanes == 1 else scans(x)[1:]
        module = module_of([x], ops, [v for op in ops for v in op.outputs])
        check(module, [terms], settings, runner, "cuda.scan", [{"x.block": 32, "lanes": lanes}])


def test_lanes_share_associative_steps_only(settings: Settings) -> None:
    recipe, device = recipes_of(settings)["cuda.scan"], device_of(settings)
    x = value("x", "float32", (13, 50))
    load, p0 = Load(0, "float32"), Var("p0", "float32")
    for step, shared in ((p0 + load, True), (p0 - load, False), (p0 * load + load, False), (p0 + load * p0, False)):
        match = recipe.see(recurrence("r", x, (const(0.0, "float32"),), (step,), (p0,)), device)
        assert match is not None
        assert (not match.refusal({"x.block": 32, "lanes": 32})) == shared


@pytest.mark.parametrize("runner", RUNNERS)
def test_results_without_elements(runner: Runner, settings: Settings) -> None:
    x = np.empty((0, 3), np.float32)

    def outputs(nodes: Any, x: Any, results: tuple[str, ...] = ("y",), **weights: Any) -> Sequence[Any]:
        module = load(case("corner", nodes, {"x": x}, weights=weights, outputs=results).model)
        return runner(plan_module(module, settings).program, settings, [x])

    assert outputs([node("Exp", "x", "y")], x)[0].shape == (0, 3)
    assert outputs([node("CumSum", "x a", "y")], x, a=np.asarray(0, np.int64))[0].shape == (0, 3)
    (found,) = outputs([node("ReduceSum", "x a", "y", keepdims=0)], x, a=np.asarray([0], np.int64))
    np.testing.assert_array_equal(found, np.zeros(3, np.float32))
    nodes = [node("TopK", "x k", "v i")]
    for rows, count in ((0, 2), (2, 0)):
        found = outputs(nodes, np.ones((rows, 3), np.float32), ("v", "i"), k=np.asarray([count], np.int64))
        assert found[0].shape == found[1].shape == (rows, count)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_sampled_choices_become_machine_code(arch: str, tmp_path: Path) -> None:
    settings = settings_for(arch)
    sums = [node("CumSum", "x a", "y")], {"x": np.zeros((37, 90), np.float32)}, {"a": np.asarray(1)}, ("y",)
    best = [node("TopK", "x k", "v i")], {"x": np.zeros((5, 900), np.float16)}, {"k": np.asarray([7])}, ("v", "i")
    rng = np.random.default_rng(0)
    for recipe, (nodes, feeds, weights, results) in (("scan", sums), ("topk", best), ("topk_sort", best)):
        module = load(case("sampled", nodes, feeds, weights, results).model)
        known, device = recipes_of(settings)[f"cuda.{recipe}"], device_of(settings)
        (group,) = (k.group for k in plan_module(module, settings).program.kernels.values())
        match = known.see(subject_of(group), device)  # type: ignore[arg-type]
        assert match is not None
        check_registers(module, group, conformance.sample(match, 6, rng), settings, tmp_path)
