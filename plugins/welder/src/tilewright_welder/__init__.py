"""Welder (OSDI'23) as a Tilewright technique: which operators are welded into one kernel, and at which memory level each edge between them lives."""
