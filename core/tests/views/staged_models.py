"""Models of several kernels, welded into one group of stages."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.device import load_device
from tilewright.frontend import load
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.planning.connect import epilogue
from tilewright.planning.session import Session
from tilewright.testing.cases import Case, case, node, steps
from tilewright.testing.conformance import welded
from tilewright.views.staged import StagedSpec, staged_of

_RANDOM = np.random.default_rng(4)


def rand(*shape: int) -> Any:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def normalisation(kind: str, shape: tuple[int, ...], size: int, **attributes: Any) -> Case:
    """A normalisation with a scale and a bias of `size` elements."""
    weights = {"s": rand(size), "b": rand(size)}
    return case("n", [node(kind, "x s b", "y", **attributes)], {"x": rand(*shape)}, weights, opset=21, like="x")


SOFTMAX = case("softmax", [node("Softmax", "x", "y")], {"x": rand(2, 3, 7)})
MIDDLE = case("middle", [node("Softmax", "x", "y", axis=1)], {"x": rand(2, 5, 3)})
ONE_ROW = case("one row", [node("Softmax", "x", "y")], {"x": rand(1, 7)})
SCALED = case("scaled", steps("t = Mul x c; y = Softmax t"), {"x": rand(4, 6)}, {"c": np.float32(0.5)})
LAYER = normalisation("LayerNormalization", (2, 3, 6), 6)
GROUP = normalisation("GroupNormalization", (2, 6, 3, 4), 6, num_groups=3)
RESIDUAL = case(
    "residual",
    [node("Add", "x r", "t"), node("LayerNormalization", "t s b", "y", axis=-1)],
    {"x": rand(3, 8), "r": rand(3, 8)},
    {"s": rand(8), "b": rand(8)},
    outputs=("t", "y"),
)


def group_of(one: Case) -> tuple[Module, Group]:
    """The model and the group that it is."""
    module = load(one.model)
    session = Session("cuda:h200", load_device("h200"), [], {}, frozenset(module.constants))
    (group,) = welded(epilogue.make())(module.main.body, session.request()).groups
    return module, group


def stages_of(one: Case) -> StagedSpec:
    """The model's stages."""
    module, group = group_of(one)
    found = staged_of(group, module.constants, module.symbols)
    assert found is not None
    return found


def operands(one: Case, module: Module) -> dict[str, Any]:
    """Constants and inputs by the names of the values."""
    values: dict[str, Any] = {k: v.data for k, v in module.constants.items()}
    for name, value in zip(module.input_names, module.main.body.params, strict=True):
        values[value.name] = one.feeds[name]
    return values
