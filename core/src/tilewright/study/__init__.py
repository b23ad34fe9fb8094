"""Studies: what a named choice is worth, measured against another named choice."""
