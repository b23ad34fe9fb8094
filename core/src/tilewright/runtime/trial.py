"""The side of a trial that compiles and runs, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from tilewright.compiler import build_program
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.ir import serial
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.ir.module import Constant
from tilewright.ir.ops import Value
from tilewright.ir.program import Program
from tilewright.planning.trial import random_array, trial_program
from tilewright.plugins.manager import Registry
from tilewright.runtime import built
from tilewright.runtime.immediate import poisoned
from tilewright.runtime.native import Array, NativeProgram

_LEAST_SECONDS = 0.05
_ROUNDS = (5, 1000)


def start(argument: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Answers requests for one target, each with its `action`.

    - `build`, with a `group`, the names of its `constants` and a `choice`, or with a `program` and the values of its
      `constants`: compiles it; facts about the code. With a `folder` the program is left there.
    - `load`, with such a folder and the program's `inputs` and `outputs`: loads the program and runs it once.
    - `measure`: seconds of further runs of what was loaded.
    - `rest`: gives back what it holds of the device, and the operands.
    """
    settings = bind(Config(target=argument["target"]), Registry(), argument["threads"])
    bench: _Bench | None = None

    def answer(request: Mapping[str, Any]) -> Any:
        nonlocal bench
        match request["action"]:
            case "build":
                return _build(settings, request)
            case "load":
                if bench is None or not bench.serves(request):
                    _dismiss(bench)
                    bench = _Bench(settings, request)
                return bench.load(Path(request["folder"]))
            case "rest":
                _dismiss(bench)
                bench = None
                return None
            case _:
                assert bench is not None
                return bench.measure()

    return answer


def _build(settings: Settings, request: Mapping[str, Any]) -> dict[str, Any]:
    program = _program(request)
    kept = request.get("folder")
    place: AbstractContextManager[str] = (
        tempfile.TemporaryDirectory(prefix="tilewright-") if kept is None else nullcontext(kept)
    )
    with place as folder:
        began = time.perf_counter()
        output = build_program(program, settings, Path(folder))
        seconds = time.perf_counter() - began
        if kept is not None:
            built.save(output, Path(folder))
        known = output.data.get("facts", {})
        facts: Mapping[str, Any] = known.get(next(iter(program.kernels)), {}) if len(program.kernels) == 1 else {}
        return {"seconds": seconds, **facts}


def _program(request: Mapping[str, Any]) -> Program:
    if "program" in request:
        drawn = np.random.default_rng(0)
        values = [serial.load(x, Value) for x in request["constants"]]
        constants = {v.name: Constant(random_array(v, drawn)) for v in values}
        return attrs.evolve(serial.load(request["program"], Program), constants=constants)
    group, choice = serial.load(request["group"], Group), serial.load(request["choice"], TileChoice)
    return trial_program(group, choice, frozenset(request["constants"]))


def _dismiss(bench: _Bench | None) -> None:
    if bench is not None:
        bench.close()


class _Bench:
    """Runs programs with the same inputs and outputs, one after the other, on operands that are made once."""

    def __init__(self, settings: Settings, request: Mapping[str, Any]) -> None:
        self._settings = settings
        self._about = (request["inputs"], request["outputs"])
        self._native: NativeProgram | None = None

    def serves(self, request: Mapping[str, Any]) -> bool:
        """Whether a request is about the same operands."""
        return self._about == (request["inputs"], request["outputs"])

    def close(self) -> None:
        """Unloads the program."""
        if self._native is not None:
            before, self._native = self._native, None
            before.close()

    @cached_property
    def _inputs(self) -> list[Array]:
        rng = np.random.default_rng(1)
        return [random_array(serial.load(v, Value), rng) for v in self._about[0]]

    @cached_property
    def _outputs(self) -> list[Array]:
        values = [serial.load(v, Value) for v in self._about[1]]
        return [poisoned(v.static_shape(), v.dtype) for v in values]

    def load(self, folder: Path) -> None:
        """Loads a program in place of the one before, and runs it once."""
        self.close()
        self._native = built.load(folder, self._settings, self._settings.threads)
        self._native.run(self._inputs, self._outputs)

    def measure(self) -> dict[str, Any]:
        """Seconds of further runs."""
        assert self._native is not None
        once = min(self._native.measure(2))
        rounds = min(max(int(_LEAST_SECONDS / max(once, 1e-7)), _ROUNDS[0]), _ROUNDS[1])
        return {"seconds": list(self._native.measure(rounds))}
