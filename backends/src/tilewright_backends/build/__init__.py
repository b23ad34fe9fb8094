"""From TIR to a library."""
