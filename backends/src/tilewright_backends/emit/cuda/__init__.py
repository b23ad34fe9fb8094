"""CUDA emitters: statements of one task of each recipe."""
