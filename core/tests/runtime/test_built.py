"""Built programs in folders: what is loaded is what was built, and equal weights are stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.ir import dtypes
from tilewright.plugins.manager import Registry
from tilewright.runtime import built
from tilewright.runtime.native import Array, BuildOutput, Weight


def drawn(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(0).integers(-9, 9, shape).astype(dtypes.to_numpy(dtype))


def test_programs_side_by_side_share_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {
        "shared": drawn("float32", 3, 4),
        "narrow": drawn("bfloat16", 5),
        "scalar": drawn("int64"),
        "empty": drawn("float32", 0, 2),
    }
    made: list[str] = []

    def weight(name: str, array: Array) -> Weight:
        def load() -> Array:
            made.append(name)
            return array

        return Weight(name, dtypes.from_numpy(array.dtype), array.shape, load, "a/key" if name == "shared" else "")

    given: list[Any] = []
    monkeypatch.setattr(built, "bound", lambda *rest: given.append(rest))
    settings = bind(Config(target="cpu"), Registry())
    for number in ("0", "1"):
        folder = tmp_path / number
        folder.mkdir()
        output = BuildOutput(folder / "library.so", [weight(*item) for item in arrays.items()], {"n": [1]})
        built.save(output, folder)
        built.load(folder, settings, 2)
        library, weights, data, _, threads = given.pop()
        assert (library, data, threads) == (output.library, output.data, 2)
        assert list(weights) == list(arrays)
        for name, array in arrays.items():
            assert (weights[name].dtype, weights[name].shape) == (array.dtype, array.shape)
            assert weights[name].tobytes() == array.tobytes()
            assert weights[name].ctypes.data % 64 == 0 or not array.size
    assert made == [*arrays, *list(arrays)[1:]]
