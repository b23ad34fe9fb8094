"""Tilewright: a plugin-based tensor compiler. An ONNX model goes in, a fast CPU or CUDA program comes out."""
