"""What compiling and running may take: memory, and time with an empty and a warm cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
MIB = 1 << 20


def bench(tw: Callable[..., Any], model: str) -> dict[str, Any]:
    result = tw("bench", model, "--rounds", 1, "--seconds", 0.1, "--threads", 2, "--json")
    assert result.code == 0, result.err
    measured: dict[str, Any] = json.loads(result.out)["models"][0]
    assert not measured["compile_cached"]
    ours, theirs = (measured["engines"][engine]["peak_bytes"] for engine in ("tilewright", "onnxruntime"))
    assert ours <= 1.3 * theirs
    return measured


def test_resnet50(tw: Callable[..., Any], cache: Path) -> None:
    first = bench(tw, "light:resnet50")
    assert first["compile_peak_bytes"] <= 3072 * MIB
    assert first["compile_seconds"] <= 90
    again = tw("bench", "light:resnet50", "--rounds", 1, "--seconds", 0.1, "--threads", 2, "--json")
    warm = json.loads(again.out)["models"][0]
    assert warm["compile_cached"]
    assert warm["compile_seconds"] <= 10


def test_vgg19_weights_are_held_at_most_twice(tw: Callable[..., Any], cache: Path) -> None:
    """Once while it runs. While it compiles: the mapped model, and one packed weight at a time."""
    weights = 548 * MIB
    small = bench(tw, "light:squeezenet")  # what compiling takes apart from weights
    large = bench(tw, "light:vgg19")
    assert large["compile_peak_bytes"] - small["compile_peak_bytes"] <= 2 * weights
    assert large["engines"]["tilewright"]["peak_bytes"] <= 1.5 * weights
