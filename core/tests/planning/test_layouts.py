"""Which values a GPU with tensor cores stores with their channels innermost."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tilewright.compiler import device_of
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.planning.connect.layouts import laid_out
from tilewright.planning.session import Session
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case, case, node
from tilewright.testing.models import BUILDERS
from tilewright.testing.precision import narrowed


def session(target: str = "cuda:h200", constants: frozenset[str] = frozenset()) -> Session:
    return Session(target, device_of(bind(Config(target=target), Registry())), (), {}, constants)


def shapes(model: onnx.ModelProto, target: str = "cuda:h200") -> dict[str, tuple[int, ...]]:
    """Shapes as stored, of all that operators make."""
    module = load(model)
    region = laid_out(module.main.body, session(target, frozenset(module.constants)))
    return {v.name: v.static_shape() for op in region.ops for v in op.outputs if v is not None}


def two_convs(dtype: str = "float16", channels: int = 16, size: int = 13, kernel: int = 3) -> Case:
    rng = np.random.default_rng(1)

    def rand(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    pads = {"pads": [kernel // 2] * 4}
    return case(
        "two",
        [node("Conv", "x u", "c", **pads), node("Relu", "c", "r"), node("Conv", "r v", "y", **pads)],
        {"x": rand(1, 3, size, size)},
        weights={"u": rand(channels, 3, kernel, kernel), "v": rand(8, channels, kernel, kernel)},
    )


def test_what_a_window_of_products_reads_has_its_channels_innermost_and_outputs_stay() -> None:
    found = shapes(two_convs().model)
    assert {x for n, x in found.items() if n != "y"} == {(1, 13, 13, 16)}
    assert found["y"] == (1, 8, 13, 13)


@pytest.mark.parametrize(
    "kept",
    [
        two_convs("float32"),  # no tensor cores
        two_convs(channels=12),  # channels that pieces of eight do not divide
        two_convs(size=16, kernel=1),  # neighbours along the image are pieces already
    ],
)
def test_what_does_not_gain_stays(kept: Case) -> None:
    assert {x[1] for x in shapes(kept.model).values() if len(x) == 4} <= {8, 12, 16}
    assert all(x[2] == x[3] for x in shapes(kept.model).values() if len(x) == 4)


def test_a_pointwise_product_gains_where_an_image_holds_no_whole_pieces() -> None:
    assert (1, 13, 13, 16) in shapes(two_convs(size=13, kernel=1).model).values()


def test_a_cpu_stores_values_as_the_model_has_them() -> None:
    assert {x[1] for x in shapes(two_convs().model, "cpu").values()} == {8, 16}


def test_the_decision_is_recorded() -> None:
    module = load(two_convs().model)
    here = session(constants=frozenset(module.constants))
    laid_out(module.main.body, here)
    (found,) = here.record.decisions
    assert (found.slot, found.chosen) == ("connect", "dimension 1 innermost")


def test_rows_of_a_transformer_stay_as_they_are() -> None:
    module = load(narrowed(BUILDERS["bert"](opset=22).model, "float16"))
    assert laid_out(module.main.body, session(constants=frozenset(module.constants))) is module.main.body
