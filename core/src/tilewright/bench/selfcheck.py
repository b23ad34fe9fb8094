"""A self-check: does what is compiled for a target compute the right thing on this machine, and how fast?

A fixed set of items (`selfcheck_items`) is prepared, which needs a compiler and no device, and run, which needs a
device and no compiler; the two may be different machines. Every item has processes of its own, so that one that crashes
or hangs is a finding like any other.
"""

from __future__ import annotations

import fnmatch
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tilewright.arrays import load_arrays
from tilewright.bench.measure import Limits, engine_worker, outputs_of
from tilewright.compare import compare_outputs
from tilewright.errors import InputError, TilewrightError
from tilewright.plugins.identity import distribution_version
from tilewright.workers import Worker

_TASKS = "tilewright.bench.selfcheck_items"
_INDEX = "selfcheck.json"
Say = Callable[[str], None]


@attrs.frozen
class Check:
    """What is checked.

    Args:
        target: such as `rocm:mi300x`.
        config: path of a configuration, or None.
        threads: of a CPU program, and of the references.
        seconds: least time for which a program is timed.
        limits: of each process.
    """

    target: str
    config: str | None
    threads: int
    seconds: float = 0.5
    limits: Limits = attrs.field(factory=Limits)

    def asked(self, task: str, **more: Any) -> Any:
        """The answer of a worker's task. Raises WorkerError when it fails."""
        argument = {"target": self.target, "config": self.config, "threads": self.threads, **more}
        with Worker(f"{_TASKS}:{task}", argument, time_limit=self.limits.seconds) as worker:
            return worker.call(None).value


def chosen(check: Check, patterns: Sequence[str]) -> list[str]:
    """The items of a target whose names one of the patterns fits, all without patterns.

    Raises:
        InputError: none does.
    """
    names: list[str] = check.asked("listed")
    found = [x for x in names if not patterns or any(fnmatch.fnmatchcase(x, p) for p in patterns)]
    if not found:
        raise InputError(f"No item is called {', '.join(patterns)}.", f"There are: {', '.join(names)}.")
    return found


def prepare(check: Check, items: Sequence[str], folder: Path, say: Say) -> list[dict[str, Any]]:
    """Compiles items into folders of a folder, with inputs and the outputs to expect; an entry for each.

    Raises:
        InputError: the folder has a self-check already.
    """
    if (folder / _INDEX).exists():
        raise InputError(f"{folder} holds a self-check already.", "Name another folder, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, item in enumerate(items):
        say(f"compiling {item} ({number + 1} of {len(items)})")
        place = str(number)
        try:
            facts = check.asked("prepare", item=item, folder=str(folder / place))
            entries.append({"item": item, "state": "prepared", "folder": place, **facts})
        except TilewrightError as error:
            entries.append({"item": item, "state": "failed", "stage": "compile", **_told(error)})
    index = {"target": check.target, "tilewright": distribution_version("tilewright-core"), "items": entries}
    (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return entries


def prepared(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Target and entries of a folder that `prepare` filled. Raises InputError when it is none."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        return str(index["target"]), list(index["items"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no self-check: {error}.", "Make one with tilewright selfcheck --prepare FOLDER."
        ) from error


def run(check: Check, entries: Sequence[Mapping[str, Any]], folder: Path, say: Say) -> list[dict[str, Any]]:
    """Runs what is prepared; the entries with `state` "ok", "differs" or "failed", and what was found."""
    results = []
    for number, entry in enumerate(entries):
        if entry["state"] == "prepared":
            say(f"running {entry['item']} ({number + 1} of {len(entries)})")
            results.append({**entry, **_run(check, entry, folder / entry["folder"])})
        else:
            results.append(dict(entry))
    return results


def _run(check: Check, entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"state": "failed", "stage": "load"}
    try:
        feeds = dict(zip(entry["inputs"], load_arrays(folder / "inputs.safetensors"), strict=True))
        wanted = load_arrays(folder / "outputs.safetensors")
        with engine_worker("tilewright", folder / "program.tw", feeds, check.threads, check.limits) as worker:
            found["stage"] = "run"
            agreements = compare_outputs(entry["outputs"], outputs_of(worker), wanted)
            found["agreements"] = [_plain(attrs.asdict(x)) for x in agreements]
            found["stage"] = "time"
            samples = worker.call({"do": "time", "seconds": check.seconds}).value
            found |= {"median_seconds": statistics.median(samples), "samples": samples}
    except (TilewrightError, OSError, ValueError) as error:
        return found | _told(error)
    del found["stage"]
    return found | {"state": "ok" if all(x.ok for x in agreements) else "differs"}


def device(check: Check) -> dict[str, Any]:
    """What the backend says of the device; what went wrong where it fails to."""
    try:
        return dict(check.asked("device"))
    except TilewrightError as error:
        return _told(error)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinities: None stands for one."""
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in values.items()}


def _told(error: Exception) -> dict[str, str]:
    if isinstance(error, TilewrightError):
        return {"error": error.message, "remedy": error.remedy or ""}
    return {"error": f"{type(error).__name__}: {error}", "remedy": ""}
