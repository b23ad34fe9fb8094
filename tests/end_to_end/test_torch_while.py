"""A `while` of PyTorch's that holds an `if`, exported to ONNX, agrees with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tilewright

STORED = Path(__file__).parent / "models" / "torch_while.onnx"
NAMES = ("x", "limit", "y", "steps")


def agree(model: Path, cases: Sequence[Sequence[Any]]) -> None:
    (loop,) = (x for x in onnx.load(model).graph.node if x.op_type == "Loop")
    assert [x.op_type for x in loop.attribute[0].g.node].count("If") == 1
    with tilewright.compile(model, target="cpu", cache=False) as program:
        for x, limit, y, steps in cases:
            found, count = program.run(None, {"x": x, "limit": limit})
            assert int(count) == int(steps)
            np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-6)


def test_what_pytorch_exported_agrees_with_what_it_computed() -> None:
    """`torch_while.py` wrote the files."""
    stored = np.load(STORED.with_suffix(".npz"))
    cases = [[stored[f"{name}{n}"] for name in NAMES] for n in range(len(stored) // len(NAMES))]
    assert {int(case[3]) for case in cases} >= {0, 1, 2, 4, 6}
    agree(STORED, cases)


def test_what_pytorch_exports_now_agrees(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.end_to_end import torch_while

    torch_while.export(tmp_path / "model.onnx")
    agree(tmp_path / "model.onnx", [(*case, *torch_while.outputs(*case)) for case in torch_while.cases()])
