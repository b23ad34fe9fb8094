"""Indices that only a run knows, and that are wrong: reads stay in their tensor, and no update lands elsewhere.

ONNX calls such an index an error and defines no result. Ours is defined: a gather reads at the nearest end of the
dimension, a scatter leaves the update out. The expected arrays are worked out here by NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from attrs import frozen
from onnx import helper

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.api import settings_for
from tilewright.compiler import plan_model
from tilewright.errors import InputError

RNG = np.random.default_rng(7)
X = RNG.standard_normal((6, 40)).astype(np.float32)
ODD = (-(2**63), -(2**40), -41, -40, -7, -6, -5, -1, 0, 1, 5, 6, 7, 39, 40, 41, 2**31, 2**40, 2**63 - 1)
"""Far outside, and on both sides of each bound of both dimensions."""


def clipped(index: Any, extent: int) -> Any:
    """The nearest position in the dimension; negative indices count from the end."""
    index = np.asarray(index, object)
    return np.clip(np.where(index < 0, index + extent, index), 0, extent - 1).astype(np.int64)


def kept(index: Any, extent: int) -> Any:
    """Which indices lie in the dimension."""
    return np.array([-extent <= int(i) < extent for i in np.ravel(index)]).reshape(np.shape(index))


def odd(shape: Sequence[int], dtype: Any = np.int64) -> Any:
    """Indices in a random order, each of `ODD` among them where there is room."""
    size = int(np.prod(shape))
    info = np.iinfo(dtype)
    values = [i for i in ODD if info.min <= i <= info.max]
    picked = RNG.permutation([*values, *RNG.choice(values, max(size - len(values), 0))][:size])
    return np.array([int(i) for i in picked], dtype).reshape(shape)


@frozen
class Case:
    node: onnx.NodeProto
    feeds: dict[str, Any]
    wanted: Any
    opset: int = 17


def gather(axis: int, dtype: Any) -> Case:
    index = odd((4, 8), dtype)
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)
    return Case(node, {"x": X, "i": index}, np.take(X, clipped(index, X.shape[axis]), axis))


def gather_elements(axis: int) -> Case:
    index = odd((6, 40))
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=axis)
    return Case(node, {"x": X, "i": index}, np.take_along_axis(X, clipped(index, X.shape[axis]), axis))


def gather_nd() -> Case:
    index = odd((50, 2))
    places = tuple(clipped(index[:, d], X.shape[d]) for d in range(2))
    return Case(helper.make_node("GatherND", ["x", "i"], ["y"]), {"x": X, "i": index}, X[places])


def scatter_elements(axis: int, reduction: str) -> Case:
    """Distinct places, or sums of whole numbers, so that no order matters."""
    index = odd((6, 40))
    updates = np.arange(240, dtype=np.float32).reshape(6, 40)
    wanted = np.zeros_like(X)
    for at in np.ndindex(6, 40):
        if kept(index[at], X.shape[axis]):
            place = tuple(int(index[at]) % X.shape[axis] if d == axis else at[d] for d in range(2))
            wanted[place] = wanted[place] + updates[at] if reduction == "add" else updates[at]
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=axis, reduction=reduction)
    return Case(node, {"x": np.zeros_like(X), "i": index, "u": updates}, wanted)


def scatter_nd(depth: int) -> Case:
    index = odd((24, depth))
    updates = np.arange(24 * X.shape[1] ** (2 - depth), dtype=np.float32).reshape(24, *X.shape[depth:])
    wanted = X.copy()
    for row, update in zip(index, updates, strict=True):
        if all(kept(i, X.shape[d]) for d, i in enumerate(row)):
            wanted[tuple(int(i) % X.shape[d] for d, i in enumerate(row))] = update
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"])
    return Case(node, {"x": X, "i": index, "u": updates}, wanted)


def tensor_scatter(axis: int) -> Case:
    """Rows and lanes that a start moves partly, or wholly, out of the cache."""
    starts = np.array([-(2**40), -3, -1, 0, 1, 4, 5, 30, 2**40], np.int64)
    cache = RNG.standard_normal((9, 8, 36)).astype(np.float32)
    update = RNG.standard_normal((9, 4, 36) if axis == 1 else (9, 8, 34)).astype(np.float32)
    wanted = cache.copy()
    for b, start in enumerate(starts.tolist()):
        for n in range(update.shape[axis]):
            if 0 <= start + n < cache.shape[axis]:
                wanted[b].swapaxes(0, axis - 1)[start + n] = update[b].swapaxes(0, axis - 1)[n]
    node = helper.make_node("TensorScatter", ["x", "u", "s"], ["y"], axis=axis)
    return Case(node, {"x": cache, "u": update, "s": starts}, wanted, 24)


def reverse_sequence() -> Case:
    lengths = np.array([-(2**40), -1, 0, 1, 5, 6, 7, 40, 2**40, 2**62] * 4, np.int64)
    wanted = X.copy()
    for t, b in np.ndindex(X.shape):
        wanted[t, b] = X[min(max(int(lengths[b]) - 1 - t, 0), 5) if t < lengths[b] else t, b]
    node = helper.make_node("ReverseSequence", ["x", "l"], ["y"], time_axis=0, batch_axis=1)
    return Case(node, {"x": X, "l": lengths}, wanted)


CASES = {
    **{f"Gather {a} {np.dtype(d)}": gather(a, d) for a in (0, 1) for d in (np.int64, np.int32)},
    **{f"GatherElements {a}": gather_elements(a) for a in (0, 1)},
    "GatherND": gather_nd(),
    **{f"ScatterElements {a} {r}": scatter_elements(a, r) for a in (0, 1) for r in ("none", "add")},
    **{f"ScatterND {d}": scatter_nd(d) for d in (1, 2)},
    **{f"TensorScatter {a}": tensor_scatter(a) for a in (1, 2)},
    "ReverseSequence": reverse_sequence(),
}


def model_of(case: Case, **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [case.node],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in case.feeds.items()
            if n not in constants
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, case.wanted.shape)],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)])


@pytest.mark.parametrize("name", CASES)
def test_on_the_cpu(name: str) -> None:
    case = CASES[name]
    with tilewright.compile(model_of(case), target="cpu", threads=2, cache=False) as program:
        (found,) = program.run(None, case.feeds)
    np.testing.assert_array_equal(found, case.wanted)


@pytest.mark.parametrize("name", CASES)
def test_on_cuda(name: str) -> None:
    case = CASES[name]
    settings = settings_for("cuda:h200", None)
    program = plan_model(model_of(case), settings).program
    (found,) = emulate(program, settings, [case.feeds[n] for n in program.input_names])
    np.testing.assert_array_equal(found, case.wanted)


@pytest.mark.parametrize(
    "name", ["Gather 0 int64", "GatherElements 1", "GatherND", "ScatterND 2", "ScatterElements 0 none"]
)
def test_a_wrong_index_that_is_known_when_compiling_is_an_error(name: str) -> None:
    case = CASES[name]
    with pytest.raises(InputError, match=rf"{case.node.op_type}.*index -?\d+, which lies outside of a dimension of"):
        tilewright.compile(model_of(case, i=case.feeds["i"]), target="cpu", cache=False)


def test_indices_for_nothing_are_an_error() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="the gather")
    case = Case(node, {"x": np.zeros((0, 3), np.float32), "i": np.zeros(2, np.int64)}, np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"the gather.*without elements"):
        tilewright.compile(model_of(case), target="cpu", cache=False)
