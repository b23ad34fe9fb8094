"""The check that all other tests rely on turns red when the compiler is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import onnx
import pytest

from tilewright import api, assemble
from tilewright.cli.app import cli
from tilewright.cli.base import run
from tilewright.compiler import Plan
from tilewright.frontend.source import Source
from tilewright.planning import weights

MODEL = "light:squeezenet"


def no_mutation(patch: pytest.MonkeyPatch) -> None:
    """The check is green without one."""


def transposed_weight(patch: pytest.MonkeyPatch) -> None:
    """One weight of rank 2 and more is stored with its axes in the opposite order."""
    load = weights._loader
    mutated: list[str] = []

    def loader(program: Any, name: str) -> Callable[[], Any]:
        given = load(program, name)
        if mutated or np.ndim(given()) < 2:
            return given
        mutated.append(name)
        return lambda: np.ascontiguousarray(given().T).reshape(given().shape)

    patch.setattr(weights, "_loader", loader)


def shifted_index(patch: pytest.MonkeyPatch) -> None:
    """One 3×3 convolution reads one row too high."""
    load = api.load_module

    def mutated(source: Source, *args: Any, **options: Any) -> Any:
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
        pads = next(a for n in proto.graph.node for a in n.attribute if a.name == "pads" and list(a.ints) == [1] * 4)
        pads.ints[:] = [2, 1, 0, 1]
        return load(attrs.evolve(source, proto=proto), *args, **options)

    patch.setattr(api, "load_module", mutated)


def skipped_kernel(patch: pytest.MonkeyPatch) -> None:
    """One launch in the middle is left out."""
    plan = assemble.plan_module

    def mutated(*args: Any) -> Plan:
        made = plan(*args)
        body = made.program.body
        middle = len(body) // 2
        return attrs.evolve(made, program=attrs.evolve(made.program, body=(*body[:middle], *body[middle + 1 :])))

    patch.setattr(assemble, "plan_module", mutated)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("mutate", "code"), [(no_mutation, 0), (transposed_weight, 1), (shifted_index, 1), (skipped_kernel, 1)]
)
def test_compare_turns_red(
    mutate: Callable[[pytest.MonkeyPatch], None],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    mutate(monkeypatch)
    found = run(cli, ["compare", MODEL, "--no-cache"])
    assert found == code, capfd.readouterr()
