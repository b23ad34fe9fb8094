"""Welder (OSDI'23) as a Tilewright technique; the distribution's README says which decision it owns."""
