"""Making programs of ours for many cells side by side."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

C = TypeVar("C")
R = TypeVar("R")


def side_by_side(
    prepare: Callable[[C, Path], R], cells: Sequence[C], folders: Sequence[Path], jobs: int, shares: int = 1
) -> list[R]:
    """`prepare` of each cell and its folder, in `jobs` processes, each with its share of the processors.

    Args:
        shares: how many shares each has: more than one where some need much longer than others.
    """
    jobs = min(jobs, len(cells))
    # Not forked: a compiler's threads do not survive that.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _share, (spawn.Value("i", 0), jobs, shares)) as pool:
        return list(pool.map(prepare, cells, folders))


def _share(number: Any, jobs: int, shares: int) -> None:
    """Gives this process its shares of the processors."""
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    processors = sorted(os.sched_getaffinity(0))
    taken = {x for i in range(shares) for x in processors[(mine + i) % jobs :: jobs]}
    os.sched_setaffinity(0, taken or processors)


def compiled(model: Any, path: Path, config: Mapping[str, Any], target: str, threads: int) -> dict[str, Any]:
    """Compiles a model to a file; what there is to say of it, which is an `error` where that fails."""
    from tilewright.api import compile_artifact, settings_for

    settings = settings_for(None, {"target": target, **config}, threads=threads)
    start = time.perf_counter()
    try:
        artifact, _ = compile_artifact(model, settings, cache=False)
    except Exception as error:  # noqa: BLE001 - one cell's failure is a result
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    seconds = time.perf_counter() - start
    with artifact:
        artifact.copy_to(path)
        (variant,) = artifact.manifest.variants
        decisions = [x for x in artifact.decisions(variant) if x["slot"] == "propose"]
    return {
        "compile_seconds": seconds,
        "predicted_us": sum(x["costs"][0] for x in decisions) * 1e6,
        "choices": [x["chosen"] for x in decisions],
    }
