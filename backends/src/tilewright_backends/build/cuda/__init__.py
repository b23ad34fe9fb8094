"""CUDA: from kernel bodies to source, machine code and a library."""
