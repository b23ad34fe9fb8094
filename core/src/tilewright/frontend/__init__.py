"""The front end: an ONNX model in, a `Module` of tensor operators out."""

from tilewright.frontend.load import import_model, load

__all__ = ["import_model", "load"]
