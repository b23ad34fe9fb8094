"""A copy between two buffers as a kernel, so that it can stand in a graph beside the others."""

from __future__ import annotations

from contextlib import nullcontext

from tilewright.ir.expr import Expr
from tilewright_backends.emit.gpu.body import GpuBody

THREADS = 256


def word_of(size: int) -> tuple[str, int]:
    """The widest word that divides a number of bytes, and how many there are (placements start at multiples of 256)."""
    return ("uint32x4", size // 16) if size % 16 == 0 else ("uint8", size)


def statements(body: GpuBody, source: str, target: str, size: int, row: Expr | None = None) -> None:
    """Statements of one task: one word for each thread.

    Args:
        source: name of the parameter to read.
        target: name of the parameter to write.
        size: bytes to copy.
        row: of so many bytes, which the copy becomes; None: the first.
    """
    word, total = word_of(size)
    at = body.hold(body.task * body.threads + body.thread, "at")
    inside = body.below(at, total)
    near, far = (body.view(body.params[name], word, total) for name in (target, source))
    with nullcontext() if inside is None else body.when(inside):
        to = at if row is None else at + row * total
        body.store(near, body.index(to), far[body.index(at)])
