"""Legalisation: a module of ONNX nodes becomes a module of tensor operators.

One file per operator family holds the rules; `index` lists the files; `table` is the registry.
"""

from __future__ import annotations

from tilewright.frontend.legalize.builder import Builder, Tensor, wide, within
from tilewright.frontend.legalize.index import builtin_table
from tilewright.frontend.legalize.legalizer import legalize
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family, Rule, Table

__all__ = [
    "Builder",
    "Family",
    "Node",
    "Rule",
    "Table",
    "Tensor",
    "builtin_table",
    "legalize",
    "wide",
    "within",
]
