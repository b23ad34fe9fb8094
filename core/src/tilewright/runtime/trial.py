"""The side of a trial that compiles and runs, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.compiler import build_program
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.ir import serial
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.planning.trial import random_array, trial_program
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import loaded, poisoned

_LEAST_SECONDS = 0.05
_ROUNDS = (5, 1000)


def start(argument: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Answers requests `{"action": "build" | "measure", "choice": …}` about one group and target."""
    settings = bind(Config(target=argument["target"]), Registry(), argument["threads"])
    group = serial.load(argument["group"], Group)
    constants = frozenset(argument["constants"])

    def build(choice: TileChoice) -> dict[str, Any]:
        program = trial_program(group, choice, constants)
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            began = time.perf_counter()
            output = build_program(program, settings, Path(folder))
            (name,) = program.kernels
            facts: Mapping[str, Any] = output.data.get("facts", {}).get(name, {})
            return {"seconds": time.perf_counter() - began, **facts}

    def measure(choice: TileChoice) -> dict[str, Any]:
        program = trial_program(group, choice, constants)
        rng = np.random.default_rng(1)
        inputs = [random_array(v, rng) for v in program.inputs]
        outputs = [poisoned(v.static_shape(), v.dtype) for v in program.outputs]
        with loaded(program, settings, settings.threads) as native:
            native.run(inputs, outputs)
            once = min(native.measure(2))
            rounds = min(max(int(_LEAST_SECONDS / max(once, 1e-7)), _ROUNDS[0]), _ROUNDS[1])
            return {"seconds": list(native.measure(rounds))}

    def answer(request: Mapping[str, Any]) -> Any:
        choice = serial.load(request["choice"], TileChoice)
        return build(choice) if request["action"] == "build" else measure(choice)

    return answer
