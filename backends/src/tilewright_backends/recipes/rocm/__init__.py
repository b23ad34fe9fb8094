"""ROCm recipes: what AMD GPUs do in their own way; no TVM here."""
