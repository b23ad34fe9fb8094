"""Building ROCm programs: LLVM code, code objects, what their notes say."""
