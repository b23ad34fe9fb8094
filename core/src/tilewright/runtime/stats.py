"""What a program has done so far."""

from __future__ import annotations

from attrs import define


@define
class Stats:
    """Counters of one program since it was loaded.

    Attributes:
        runs: calls of `Executable.run` that ended well.
        native_runs: runs of a native program; a run of a program with several native steps counts several.
        reference_runs: runs of a step by ONNX's reference evaluator.
        loaded: native programs that were loaded.
        specialised: programs that were made for new shapes or values of inputs.
        hits: runs for which such a program was there.
        evictions: such programs that were given up for others.
        compile_seconds: time that compiling them took; none for one that the cache had.
    """

    runs: int = 0
    native_runs: int = 0
    reference_runs: int = 0
    loaded: int = 0
    specialised: int = 0
    hits: int = 0
    evictions: int = 0
    compile_seconds: float = 0.0
