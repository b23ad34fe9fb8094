"""Dispatch among variants. The programs are stand-ins; real ones are tested end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tilewright.artifact import Step, TensorInfo, Variant
from tilewright.artifact.pool import Pool
from tilewright.errors import InputError
from tilewright.runtime.native import NO_SYMBOLS, Array, Weight
from tilewright.runtime.pipeline import Pipeline
from tilewright.runtime.stats import Stats
from tilewright.runtime.variants import NativeStep


class Adder:
    """y = x + amount."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.closed = False

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], symbols: Mapping[str, int] = NO_SYMBOLS) -> None:
        np.add(inputs[0], self.amount, out=outputs[0])

    def measure(self, rounds: int) -> list[float]:
        return [0.0] * rounds

    def close(self) -> None:
        self.closed = True


def variant(number: int, shape: tuple[int | str, ...], symbols: dict[str, tuple[int, int]] | None = None) -> Variant:
    infos = [(TensorInfo(name, "float32", shape),) for name in ("x", "y")]
    return Variant(f"library-{number}.so", f"decisions-{number}.json", *infos, symbols or {})


def step(*variants: Variant) -> Step:
    return Step("native", ("x",), ("y",), variants)


class Loaded:
    """A step whose variant n adds n; what it has loaded."""

    def __init__(self, step: Step) -> None:
        self.programs: dict[int, Adder] = {}
        self.stats = Stats()
        self.step = NativeStep(step, self._load, self.stats)

    def _load(self, variant: Variant) -> Adder:
        number = int(variant.library.removeprefix("library-").removesuffix(".so"))
        return self.programs.setdefault(number, Adder(number))

    def __call__(self, *shape: int) -> float:
        (y,) = self.step.run([np.zeros(shape, np.float32)])
        assert y.shape == shape
        return float(y.reshape(-1)[0])


def test_the_shapes_choose_the_variant_which_is_loaded_when_it_is_first_used() -> None:
    loaded = Loaded(step(variant(1, (1, 3)), variant(2, (4, 3)), variant(3, (4, 5))))
    assert loaded.programs == {}
    assert loaded(4, 3) == 2
    assert list(loaded.programs) == [2]
    assert [loaded(1, 3), loaded(4, 5), loaded(4, 3)] == [1, 3, 2]
    assert (loaded.stats.native_runs, loaded.stats.loaded) == (4, 3)
    loaded.step.close()
    assert all(program.closed for program in loaded.programs.values())


def test_the_only_variant_is_loaded_at_once() -> None:
    assert list(Loaded(step(variant(7, (1, 3)))).programs) == [7]


def test_a_symbolic_variant_takes_what_no_fixed_one_does() -> None:
    loaded = Loaded(step(variant(1, ("n", 3), {"n": (0, 8)}), variant(2, (4, 3)), variant(3, ("n", 3), {"n": (0, 16)})))
    assert [loaded(4, 3), loaded(5, 3), loaded(9, 3)] == [2, 1, 3]
    with pytest.raises(InputError, match=r"x=17x3.*x=nx3; x=4x3"):
        loaded(17, 3)


def test_shapes_that_no_variant_has_are_an_error_that_lists_what_there_is() -> None:
    loaded = Loaded(step(variant(1, (1, 3)), variant(2, (4, 3))))
    with pytest.raises(InputError, match=r"other shapes than x=2x3. It has: x=1x3; x=4x3.*--shape"):
        loaded(2, 3)
    assert loaded.programs == {}


def test_two_variants_of_one_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        step(variant(1, (1, 3)), variant(2, (1, 3)))


def test_a_pipeline_hands_values_on_by_name() -> None:
    stats = Stats()
    steps = [Step("native", (a,), (b,), (renamed(n, a, b),)) for n, (a, b) in enumerate((("x", "h"), ("h", "y")))]
    runners = [(s, NativeStep(s, lambda v: Adder(int(v.library[8]) + 1), stats)) for s in steps]
    pipeline = Pipeline(["x"], ["y", "h"], runners)
    y, h = pipeline.run([np.zeros(2, np.float32)])
    assert (y.tolist(), h.tolist()) == ([3, 3], [1, 1])
    assert stats.native_runs == 2


def renamed(number: int, a: str, b: str) -> Variant:
    return Variant(
        f"library-{number}.so", "d", (TensorInfo(a, "float32", (2,)),), (TensorInfo(b, "float32", (2,)),)
    )


def test_the_pool_stores_equal_weights_once_and_names_others_apart() -> None:
    def weight(name: str, key: str) -> Weight:
        return Weight(name, "int8", (1,), lambda: np.zeros(1, np.int8), key)

    pool = Pool()
    assert pool.add([weight("w", "1"), weight("v", "2"), weight("u", "")]) == {"w": "w", "v": "v", "u": "u"}
    assert pool.add([weight("v", "1"), weight("w", "3"), weight("u", "")]) == {"v": "w", "w": "w_1", "u": "u_1"}
    assert pool.add([weight("~1", "4")]) == {"~1": "1"}
    assert [w.name for w in pool.weights] == ["w", "v", "u", "w_1", "u_1", "1"]
