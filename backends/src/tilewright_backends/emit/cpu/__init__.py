"""Emitters for the CPU."""
