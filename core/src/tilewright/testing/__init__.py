"""Helpers for tests of Tilewright and of its plugins: seeded models, comparison with a reference."""
