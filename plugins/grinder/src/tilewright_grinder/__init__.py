"""Grinder (OSDI'23, published as Cocktailer) as a Tilewright technique; what it decides stands in the README."""
