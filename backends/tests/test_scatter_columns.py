"""Which part of an update's address the data leave alone, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import Case, case, node
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import flat_spec
from tilewright_backends.recipes.gpu.scatter import columns


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def places(*shape: int) -> Any:
    return np.zeros(shape, np.int64)


def scatter(kind: str, x: Any, i: Any, u: Any, **attributes: Any) -> Case:
    return case(kind, [node(kind, "x i u", "y", **attributes)], {"x": x, "i": i, "u": u})


CASES = {
    "rows": (scatter("ScatterND", ones(30, 33), places(17, 1), ones(17, 33)), 33),
    "planes": (scatter("ScatterND", ones(30, 4, 5), places(17, 1), ones(17, 4, 5)), 20),
    "elements of rows": (scatter("ScatterND", ones(30, 33), places(17, 2), ones(17)), 1),
    "along the first axis": (scatter("ScatterElements", ones(30, 33), places(7, 33), ones(7, 33), axis=0), 33),
    "part of the columns": (scatter("ScatterElements", ones(30, 33), places(7, 11), ones(7, 11), axis=0), 11),
    "part that divides no row": (scatter("ScatterElements", ones(30, 33), places(7, 10), ones(7, 10), axis=0), 1),
    "along the last axis": (scatter("ScatterElements", ones(30, 33), places(30, 7), ones(30, 7), axis=1), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_columns_of_an_update(name: str) -> None:
    one, width = CASES[name]
    module = load(one.model)
    session = conformance.session_of(bind(Config(target="cuda:h200"), Registry()), module)
    found = [session.subject(x) for x in session.connect(module.main.body).groups]
    (spec,) = [flat for x in found if isinstance(x, KernelSpec) and (flat := flat_spec(x)) and flat.scatters]
    axes, points = columns(spec, spec.stores[0])
    assert points == width
    assert np.prod([int(x.extent.value) for x in axes], dtype=int) == width  # type: ignore[union-attr]
