"""CUDA recipes: what the emitters can do, without TVM."""
