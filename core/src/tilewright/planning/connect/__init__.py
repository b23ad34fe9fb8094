"""Values of the slot `connect`: which operators share a kernel."""
