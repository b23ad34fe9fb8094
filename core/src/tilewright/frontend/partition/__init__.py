"""Cutting a model into parts: what compiles, what compiles once a run knows more, and what ONNX's reference runs."""

from tilewright.frontend.partition.classify import MOST_STEERING, classify
from tilewright.frontend.partition.cut import Part, cut
from tilewright.frontend.partition.verdict import Classification, Verdict, Where

__all__ = ["MOST_STEERING", "Classification", "Part", "Verdict", "Where", "classify", "cut"]
