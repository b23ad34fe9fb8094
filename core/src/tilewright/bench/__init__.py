"""Measuring engines side by side: each in its own process, taking turns, medians."""
