"""Workers of the fuzzer with planted faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tilewright.frontend import fold
from tilewright.frontend.legalize import movement
from tilewright.testing import fuzz


def shifting(target: str) -> Callable[[int], Any]:
    """A slice begins at the first element, wherever it should."""
    movement.slice_range = lambda *bounds: (0, fold.slice_range(*bounds)[1])  # type: ignore[assignment]
    return fuzz.start(target)


def dying(target: str) -> Callable[[int], Any]:
    """Every tenth graph is the end of the process."""
    true = fuzz.start(target)

    def answer(seed: int) -> Any:
        if seed % 10 == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        return true(seed)

    return answer
