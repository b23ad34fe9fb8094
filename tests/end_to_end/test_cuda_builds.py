"""Light models down to machine code for NVIDIA GPUs, on a machine that needs to have none."""

from __future__ import annotations

import pytest

from tilewright.api import compile_artifact, settings_for
from tilewright.testing.seeded import light_model, light_names


FAILS = {"densenet121": "TVM's interval analysis refuses the select chain of its wide Concat"}


def models() -> list[object]:
    """Every light model; all but the smallest in the slow tier."""
    slow = [x for x in light_names() if x != "squeezenet"]
    marks = {x: [pytest.mark.slow] for x in slow}
    for name, reason in FAILS.items():
        marks[name].append(pytest.mark.xfail(reason=reason))
    return ["squeezenet", *(pytest.param(x, marks=marks[x]) for x in slow)]


@pytest.mark.parametrize("name", models())
def test_a_light_model_builds_for_hopper(name: str) -> None:
    artifact, _ = compile_artifact(light_model(name), settings_for("cuda:h200", None), cache=False)
    with artifact:
        artifact.verify()
        assert artifact.manifest.target == "cuda:h200"
        assert artifact.manifest.kernels > 10
