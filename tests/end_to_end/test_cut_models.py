"""Random models cut at random places: compiled parts and parts of the reference evaluator in turns."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

import tilewright.partitioned
from tilewright.api import compile_parts, settings_for
from tilewright.errors import UnsupportedError
from tilewright.frontend.partition import Classification
from tilewright.frontend.source import read
from tilewright.runtime.executable import load_artifact
from tilewright.testing.fuzz import difference, draw_graph

CLASSIFY = tilewright.partitioned.classify


def check(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = draw_graph(seed)
    rng = np.random.default_rng(seed)

    def moved(*args: Any) -> Classification:
        """The classification with some of the nodes that could be compiled on the evaluator, one of them at least."""
        found = CLASSIFY(*args)
        native = [n for n, x in enumerate(found.verdicts) if x.where == "native"]
        if not native:
            pytest.skip("every node is a constant")
        chosen = {native[rng.integers(len(native))], *(n for n in native if rng.random() < 0.3)}
        verdicts = [attrs.evolve(x, where="reference") if n in chosen else x for n, x in enumerate(found.verdicts)]
        return attrs.evolve(found, verdicts=tuple(verdicts))

    monkeypatch.setattr(tilewright.partitioned, "classify", moved)
    settings = settings_for("cpu", None, "reference")
    made = tilewright.partitioned.partitioned(read(graph.model), settings, {}, {}, UnsupportedError("no"), jit=False)
    assert made is not None
    artifact, _ = compile_parts(made, "cut", settings, cache=False)
    names = [x.name for x in graph.model.graph.input]
    with load_artifact(artifact, registry=settings.registry) as program:
        assert "reference" in [x.kind for x in program.manifest.pipeline]
        found = program.run(None, dict(zip(names, graph.feeds, strict=True)))
    for info, mine, theirs in zip(graph.model.graph.output, found, graph.expected, strict=True):
        assert not difference(info.name, mine, theirs)


@pytest.mark.parametrize("seed", range(3))
def test_random_cuts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(seed, monkeypatch)


@pytest.mark.slow(every=8)
@pytest.mark.parametrize("seed", range(3, 60))
def test_many_random_cuts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(seed, monkeypatch)
