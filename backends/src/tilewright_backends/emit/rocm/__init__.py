"""ROCm emitters: what AMD GPUs do in their own way."""
