"""Rammer (OSDI'20) as a Tilewright technique: which tasks run on which virtual execution unit, in what order, behind which waits."""
