"""Grinder (OSDI'23, published as Cocktailer) as a Tilewright technique: where loops, branches and recursion run: host, whole grid, or inside one block."""
