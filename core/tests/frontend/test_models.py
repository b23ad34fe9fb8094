"""Whole models: they load fast, and the interpreter agrees with ONNX Runtime."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.testing.models import BUILDERS, PUBLISHED
from tilewright.testing.precision import narrowed, narrowed_feeds
from tilewright.testing.seeded import light_model, light_names

LOAD_LIMIT = 60.0
"""Seconds for the whole of `load`, tens of times what it takes: what is passed is an algorithm that explodes."""


def agreement(model: Any, feeds: dict[str, Any], module: Any) -> float:
    """Largest relative distance between our outputs and ONNX Runtime's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for mine, theirs in zip(interpret(module, feeds), session.run(None, feeds), strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        worst = max(worst, float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)))
    return worst


@pytest.mark.parametrize("name", light_names())
def test_light_model(name: str) -> None:
    model = light_model(name)
    start = time.perf_counter()
    module = load(model)
    assert time.perf_counter() - start < LOAD_LIMIT
    rng = np.random.default_rng(1)
    feeds = {
        name: rng.standard_normal(p.static_shape()).astype(p.dtype)
        for name, p in zip(module.input_names, module.main.body.params, strict=True)
    }
    assert agreement(model, feeds, module) < 1e-4


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_block(name: str) -> None:
    case = BUILDERS[name]()
    assert agreement(case.model, dict(case.feeds), load(case.model)) < 1e-5


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_blocks_keep_no_shape_arithmetic(name: str) -> None:
    module = load(BUILDERS[name]().model)
    integers = [op for op in module.main.body.ops for v in op.outputs if v is not None and v.dtype == "int64"]
    # The one computation on integers that stays is on data: BERT's attention mask.
    assert [op.loc.op_type for op in integers] == (["Unsqueeze"] if name == "bert" else [])


def test_seeds_decide_the_weights() -> None:
    one, two, same = (BUILDERS["vit"](seed=s).model for s in (0, 1, 0))
    assert one == same
    assert one != two


def _norm(x: Any) -> float:
    return float(np.linalg.norm(x.astype(np.float64)))


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 1e-2), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_block_in_a_half_type(name: str, dtype: str, limit: float) -> None:
    case = BUILDERS[name](opset=22)  # before it, Conv has no bfloat16
    exact = interpret(load(case.model), dict(case.feeds))
    module = load(narrowed(case.model, dtype))
    assert {v.dtype for v in module.main.body.results} == {dtype}
    for mine, wanted in zip(interpret(module, narrowed_feeds(case.feeds, dtype)), exact, strict=True):
        difference = _norm(mine.astype(np.float64) - wanted) / _norm(wanted)
        assert 1e-6 < difference < limit


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_block_at_its_published_size(name: str) -> None:
    shallow = {"layers": 2} if "layers" in PUBLISHED[name] else {}
    case = BUILDERS[name](**{**PUBLISHED[name], **shallow})
    start = time.perf_counter()
    module = load(case.model)
    assert time.perf_counter() - start < LOAD_LIMIT
    assert agreement(case.model, dict(case.feeds), module) < 1e-5
