"""The cells: one model of one batch, and of one share of what runs where decisions have one."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.control_flow.flow import Given
from benchmarks.control_flow.models import MODELS, given

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """One model.

    Attributes:
        percent: of what could run; 0 for models of which decisions have no ratio.
        small: whether it has the sizes for tests.
    """

    model: str
    percent: int
    batch: int
    small: bool = False
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Unique, and fit for a file's name."""
        ratio = f".{self.percent}" if self.percent else ""
        return f"{self.model}{ratio}.b{self.batch}{'.small' if self.small else ''}"

    def given(self) -> Given:
        """The model with weights and inputs."""
        return given(self.model, self.batch, self.percent or None, self.small)


def cells(file: Path, small: bool = False) -> list[Cell]:
    """Every cell of a table with the columns model, percent, batch.

    Raises:
        ValueError: there is no such model, or its decisions have no ratio, or need one.
    """
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = [Cell(row["model"], int(row["percent"] or 0), int(row["batch"]), small) for row in rows]
    wrong = [x.name for x in found if x.model not in MODELS or MODELS[x.model].ratios != (x.percent > 0)]
    if wrong:
        raise ValueError(f"{file} names {', '.join(wrong)}; there are {', '.join(sorted(MODELS))}")
    return found
