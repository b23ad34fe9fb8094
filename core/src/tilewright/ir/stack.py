"""Where units keep what they need after calls, and where they say that one was too deep.

All units of a launch make calls together, so at any time they are in calls of the same depth and with the same
counters; so are those of a sub-grid. A call keeps its number among the calls of the text, and counter and limit of each
loop around it. The first calls are kept in a unit's own shared memory (`Envelope.stack_bytes`), behind a table of where
each call of the text returns to; those that nest deeper stand in a buffer that is there once per active call, for all
units together. Where calls run side by side, all stand there, once per region, for any unit may go on with what another
has begun; with each call, inside of how many forks it was made, and the region of its caller. Behind the table
stands then of which larger sub-grids a unit is a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilewright.ir.program import Fork, GridCall, GridControl, Part, Program, launches

STATUS = "calls.status"
"""Name of the buffer of one 32-bit number: 0, or one more than the procedure that was called too deep."""
STACK = "calls.stack"
"""Name of the buffer of the calls for which units have no room."""
PIECE = 1 << 14
"""Bytes of an argument or a result from which on another unit copies a part of it."""
WORD = 4
"""Bytes of a number that a call keeps."""


def calling(parts: Iterable[Part]) -> bool:
    """Whether units make a call."""
    return loops_around(tuple(parts)) >= 0


def loops_around(parts: Sequence[Part], depth: int = 0) -> int:
    """Of the calls in some parts the largest number of loops around one; -1 where there is none.

    Args:
        depth: loops around the parts.
    """
    most = -1
    for part in parts:
        match part:
            case GridCall() | Fork():
                most = max(most, depth)
            case GridControl():
                inner = depth + bool(part.counter)
                most = max(most, loops_around(part.body, inner), loops_around(part.orelse, inner))
    return most


def words_of(loops: int, apart: bool = False) -> int:
    """Numbers that a call keeps around which are so many loops.

    Args:
        apart: whether calls may run side by side.
    """
    return 1 + 2 * apart + 2 * loops


def sharing(size: int, units: int) -> int:
    """How many units copy an argument or a result of `size` bytes, the first ones of so many."""
    return max(min(units, size // PIECE), 1)


def alone(size: int) -> bool:
    """Whether unit 0 copies it all."""
    return size < 2 * PIECE


GRID_WORDS = 6
"""Numbers that a unit keeps of a sub-grid."""


def table_bytes(sites: int, levels: int = 0) -> int:
    """Bytes of the table of where calls return to, and of what a unit keeps of sub-grids.

    Args:
        levels: of forks whose calls run side by side: one number that a thread has for the others, and for each level
            the sub-grid that is divided.
    """
    return WORD * (sites + (1 + GRID_WORDS * levels if levels else 0))


def stack_words(program: Program) -> int:
    """Numbers that each call in a launch of a program keeps; 0 where there is none."""
    bodies = [x.body for x in launches(program.steps)] + [p.parts for p in program.procedures.values()]
    most = max(map(loops_around, bodies), default=-1)
    apart = any(x.subgrids.levels for x in launches(program.steps))
    return words_of(most, apart) if most >= 0 else 0
