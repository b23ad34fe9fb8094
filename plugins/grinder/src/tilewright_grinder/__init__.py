"""Grinder (OSDI'23, published as Cocktailer) as a Tilewright technique; the distribution's README says which decision it owns."""
