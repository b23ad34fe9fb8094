"""Quantities for people."""

from __future__ import annotations


def size_text(size: float) -> str:
    """Bytes: `3.2 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
