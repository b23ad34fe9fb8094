"""What a program has done so far."""

from __future__ import annotations

from attrs import define


@define
class Stats:
    """Counters of one program since it was loaded.

    Attributes:
        runs: calls of `Executable.run` that ended well.
        native_runs: runs of a native program; a run of a program with several native steps counts several.
        loaded: native programs that were loaded.
    """

    runs: int = 0
    native_runs: int = 0
    loaded: int = 0
