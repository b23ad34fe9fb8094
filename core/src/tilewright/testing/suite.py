"""ONNX's whole own test suite, as far as it comes with the package: node tests and stored models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import onnx

from tilewright.testing.node_cases import Case, cases
from tilewright.testing.node_values import parsed

STORED = ("pytorch-converted", "pytorch-operator", "simple")
"""Folders of stored models. `light` and `real` are left out: the former are in tests of their own, the latter are
downloads."""


@attrs.frozen
class Test:
    """A case and the part of the suite that it belongs to: `node`, or a folder of stored models."""

    group: str
    case: Case


@cache
def suite() -> tuple[Test, ...]:
    """Every test, in a fixed order."""
    return (*(Test("node", x) for x in cases()), *(Test(group, x) for group in STORED for x in stored(group)))


def stored(group: str) -> Iterator[Case]:
    """The models of a folder with their inputs and outputs, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind=group)
    for test in sorted(found, key=lambda x: x.name):
        folder = Path(test.model_dir or "")
        model = onnx.load(folder / "model.onnx")
        kinds = (("input", model.graph.input), ("output", model.graph.output))
        data = [
            tuple(_values(part, kind, infos) for kind, infos in kinds)
            for part in sorted(folder.glob("test_data_set_*"))
        ]
        yield Case(test.name, _operator(model), model, tuple(data), test.rtol, test.atol)  # type: ignore[arg-type]


def _operator(model: onnx.ModelProto) -> str:
    return str(model.graph.node[0].op_type) if len(model.graph.node) == 1 else "several"


def _values(folder: Path, kind: str, infos: Any) -> tuple[Any, ...]:
    """The messages in the files of a data set."""
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.rpartition("_")[2]))
    return tuple(parsed(x.read_bytes(), i.type) for x, i in zip(files, infos, strict=False))
