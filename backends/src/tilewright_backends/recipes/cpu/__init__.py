"""Recipes for the CPU."""
