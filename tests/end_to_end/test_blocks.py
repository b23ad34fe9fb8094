"""Transformer-like blocks and a U-Net, compiled for this CPU with the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import tilewright
from tests.onnx_runtime import expected
from tilewright.compare import compare_outputs
from tilewright.testing.models import BUILDERS, PUBLISHED
from tilewright.testing.precision import narrowed, narrowed_feeds

NAMES = sorted(BUILDERS)


def compiled(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> tuple[list[str], Sequence[Any]]:
    """Names and values of the outputs of the compiled model."""
    program = tilewright.compile(model, target="cpu", cache=False)
    return [x.name for x in program.outputs], program.run(None, dict(feeds))


def agree(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> None:
    names, found = compiled(model, feeds)
    for agreement in compare_outputs(names, found, expected(model, feeds)):
        assert agreement.ok, agreement


@pytest.mark.parametrize("name", NAMES)
def test_a_block_agrees_with_onnx_runtime(name: str) -> None:
    case = BUILDERS[name]()
    agree(case.model, case.feeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_block_of_published_size_agrees_with_onnx_runtime(name: str) -> None:
    """Two layers where they are all alike."""
    shallow = {"layers": 2} if "layers" in PUBLISHED[name] else {}
    case = BUILDERS[name](**{**PUBLISHED[name], **shallow})
    agree(case.model, case.feeds)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(("dtype", "limit"), [("float16", 1e-2), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("name", NAMES)
def test_a_block_in_a_half_type_is_near_the_float32_one(name: str, dtype: str, limit: float) -> None:
    case = BUILDERS[name](opset=22)  # before it, Conv has no bfloat16
    exact = expected(case.model, case.feeds)
    _, found = compiled(narrowed(case.model, dtype), narrowed_feeds(case.feeds, dtype))
    for mine, wanted in zip(found, exact, strict=True):
        assert mine.dtype.name == dtype
        difference = np.linalg.norm(mine.astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert 1e-6 < difference < limit
