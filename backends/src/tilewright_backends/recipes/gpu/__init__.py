"""What the GPU recipes say about a kernel; no TVM here."""
