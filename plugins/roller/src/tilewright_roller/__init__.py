"""Roller (OSDI'22) as a Tilewright technique: which hardware-aligned tile shapes a kernel uses at each memory level."""
