"""Light models down to machine code for NVIDIA GPUs, on a machine that needs to have none."""

from __future__ import annotations

import pytest

from tilewright.api import compile_artifact, settings_for
from tilewright.testing.seeded import light_model, light_names


def models() -> list[object]:
    """Every light model, the smallest in the default tier."""
    return [x if x == "squeezenet" else pytest.param(x, marks=pytest.mark.slow(every=4)) for x in light_names()]


@pytest.mark.parametrize("name", models())
def test_a_light_model_builds_for_hopper(name: str) -> None:
    artifact, _ = compile_artifact(light_model(name), settings_for("cuda:h200", None), cache=False)
    with artifact:
        artifact.verify()
        assert artifact.manifest.target == "cuda:h200"
        assert artifact.manifest.kernels > 10
