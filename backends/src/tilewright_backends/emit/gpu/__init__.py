"""Emitters of the CUDA and ROCm recipes: kernels of threads, shared memory and barriers."""
