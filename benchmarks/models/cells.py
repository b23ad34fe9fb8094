"""The cells: one model of one batch and dtype each, in lists that are checked in."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models.graphs import MODELS
from tilewright.testing.seeded import LIGHT_PREFIX, light_names

FOLDER = Path(__file__).parent
LISTS = ("paper", "anchors", "light", "rammer")
"""`paper`: launches and bytes; `anchors`: the ten that are timed for the mean of ratios; `light`: onnx's own; `rammer`:
what Rammer's paper times, and two blocks."""


@dataclass(frozen=True)
class Cell:
    """One model.

    Attributes:
        model: a name in `graphs.MODELS`, or `light:NAME`.
        dtype: of weights, inputs and outputs.
        small: whether it has the sizes for tests.
    """

    model: str
    batch: int
    dtype: str
    small: bool = False

    @property
    def name(self) -> str:
        """Unique, and fit for a file's name."""
        return f"{self.model.replace(':', '_')}.b{self.batch}.{self.dtype}{'.small' if self.small else ''}"


def cells(file: Path, small: bool = False) -> list[Cell]:
    """Every cell of a table with the columns model, batch, dtype.

    Raises:
        ValueError: there is no such model.
    """
    with file.open(newline="") as lines:
        found = [Cell(row["model"], int(row["batch"]), row["dtype"], small) for row in csv.DictReader(lines)]
    known = {*MODELS, *(LIGHT_PREFIX + x for x in light_names())}
    unknown = sorted({c.model for c in found} - known)
    if unknown:
        raise ValueError(f"{file} names {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return found
