"""Trials: programs that are built and measured in isolated workers, one group with one choice or some launches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.errors import InputError
from tilewright.ir import dtypes, serial
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.ir.keys import canonical
from tilewright.ir.module import Constant
from tilewright.ir.ops import Value
from tilewright.ir.program import Program
from tilewright.planning.kernels import KernelTable
from tilewright.planning.requests import Planned
from tilewright.planning.schedule.one_kernel import launch_of
from tilewright.planning.storage import allocate
from tilewright.views.subject import subject_of
from tilewright.workers import BusyError, Post, Worker, WorkerError, replies, turn

T = TypeVar("T")

_WORKER = "tilewright.runtime.trial:start"


@attrs.frozen
class CodeFacts:
    """What the compiler says about a kernel's code. A number that the target does not have is 0.

    Args:
        seconds: time to generate and compile it.
        registers: 32-bit registers per thread.
        spills: bytes of registers spilled to memory per thread.
        shared_bytes: shared memory per block, static and dynamic.
        blocks_per_unit: blocks that fit on one unit at a time.
    """

    seconds: float
    registers: int = 0
    spills: int = 0
    shared_bytes: int = 0
    blocks_per_unit: int = 0


@attrs.frozen
class Samples:
    """Measured seconds of a kernel, one per run."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.seconds))


@attrs.frozen
class Failure:
    """A choice that could not be built or run, and why."""

    reason: str


@attrs.frozen
class Limits:
    """What trials may use.

    Args:
        seconds: for one build, one measurement, or waiting for the device.
        memory: bytes of each process.
        threads: of the program; by default those of `tilewright.threads.thread_count`.
        builders: processes that build side by side; by default the processors that this process may use.
    """

    seconds: float = 120.0
    memory: int | None = 8 << 30
    threads: int | None = None
    builders: int = attrs.field(factory=lambda: len(os.sched_getaffinity(0)))


@attrs.frozen
class Kind(Generic[T]):
    """One kind of trial: what the worker is asked to do, and what becomes of its answer."""

    name: str
    result: Callable[[Mapping[str, Any]], T]


BUILD = Kind("build", lambda answer: CodeFacts(**answer))
"""Compiles a choice; needs no device."""

MEASURE = Kind("measure", lambda answer: Samples(tuple(answer["seconds"])))
"""Compiles a choice and runs it on random operands."""


class Store(Protocol):
    """Where results outlive the session. Failures are not kept: they may be the moment's."""

    def find(self, kind: str, group: str, choice: TileChoice) -> Mapping[str, Any] | None:
        """The worker's answer for a choice for the group of a structural key, if it is known."""

    def keep(self, kind: str, group: str, choice: TileChoice, result: Mapping[str, Any]) -> None:
        """Stores the worker's answer."""


def ask(
    action: str,
    target: str,
    group: Group,
    choices: Sequence[TileChoice],
    constants: frozenset[str],
    limits: Limits = Limits(),
) -> list[Any]:
    """A worker's answer for each choice, in their order, or a `Failure`.

    Choices are built side by side. Then, for a measurement, one worker runs them one after the other. A worker that
    dies or hangs costs one choice; the next gets a fresh one.

    Args:
        action: name of a `Kind`.
        target: canonical target string.
        constants: names of the values known at compile time.
    """
    about = {"group": serial.dump(group), "constants": sorted(constants)}
    build = [{"action": BUILD.name, **about, "choice": serial.dump(choice)} for choice in choices]
    if action == BUILD.name:
        return _built(_post(target, limits), build, limits)
    inputs = [v for v in group.inputs if v.name not in constants]
    return _tried(target, build, inputs, group.outputs, limits)


def measure_programs(target: str, programs: Sequence[Program], limits: Limits = Limits()) -> list[Samples | Failure]:
    """Seconds of programs with the same inputs and outputs, on random operands and constants, in their order.

    Args:
        target: canonical target string.
    """
    build = [
        {
            "action": BUILD.name,
            "program": serial.dump(attrs.evolve(program, constants={})),
            "constants": [serial.dump(x.value(name)) for name, x in program.constants.items()],
        }
        for program in programs
    ]
    answers = _tried(target, build, programs[0].inputs, programs[0].outputs, limits) if programs else []
    return [x if isinstance(x, Failure) else MEASURE.result(x) for x in answers]


def _post(target: str, limits: Limits) -> Post:
    return Post(_WORKER, {"target": target, "threads": limits.threads}, limits.seconds, limits.memory)


def _tried(
    target: str,
    build: Sequence[Mapping[str, Any]],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    limits: Limits,
) -> list[Any]:
    """Builds what the requests say side by side, then measures one after the other."""
    post = _post(target, limits)
    operands = {"inputs": [serial.dump(v) for v in inputs], "outputs": [serial.dump(v) for v in outputs]}
    with tempfile.TemporaryDirectory(prefix="tilewright-") as temporary:
        folders = [Path(temporary) / str(number) for number in range(len(build))]
        for folder in folders:
            folder.mkdir()
        placed = [{**request, "folder": str(folder)} for request, folder in zip(build, folders, strict=True)]
        facts = _built(post, placed, limits)
        programs = [x if isinstance(x, Failure) else folder for x, folder in zip(facts, folders, strict=True)]
        return _measured(post, operands, programs, target.partition(":")[0], limits)


def _built(post: Post, requests: Sequence[Mapping[str, Any]], limits: Limits) -> list[Any]:
    answers = replies(post, requests, limits.builders)
    return [Failure(str(x)) if isinstance(x, WorkerError) else x for x in answers]


def _measured(
    post: Post, operands: Mapping[str, Any], programs: Sequence[Path | Failure], kind: str, limits: Limits
) -> list[Any]:
    """The answer for each folder of a program; a failure stands for itself.

    This process takes the turn at the device, so that waiting for it takes nothing from the time of the measurement.

    Args:
        operands: what a request says of inputs and outputs.
        kind: of the target.
    """
    answers: list[Any] = []
    worker: Worker | None = None
    try:
        for program in programs:
            if isinstance(program, Failure):
                answers.append(program)
                continue
            try:
                if worker is None:
                    worker = post.take()
                worker.call({"action": "load", **operands, "folder": str(program)})
                with turn(kind, limits.seconds):
                    answers.append(worker.call({"action": MEASURE.name}).value)
            except BusyError as error:
                answers.append(Failure(str(error)))
            except WorkerError as error:
                answers.append(Failure(str(error)))
                # What the worker refused does it no harm; any other error may have left the device unusable to it.
                if worker is not None and error.exit_code != InputError.exit_code:
                    worker.close()
                    worker = None
        if worker is not None:
            with suppress(WorkerError):
                worker.call({"action": "rest"})
                post.keep(worker)
                worker = None
    finally:
        if worker is not None:
            worker.close()
    return answers


def trial_program(group: Group, choice: TileChoice, constants: frozenset[str], seed: int = 0) -> Program:
    """A program of one launch that runs `group` as `choice` says, with random constants.

    Args:
        constants: names of the group's inputs that are constants; their contents are drawn from `seed`.
    """
    known = {
        v.name: Constant(random_array(v, np.random.default_rng([seed, i])))
        for i, v in enumerate(group.inputs)
        if v.name in constants
    }
    table = KernelTable()
    kernel, args = table.bind(group, lambda: subject_of(group, known), canonical(group, known), choice)
    steps = (launch_of(Planned(group, (choice,), kernel, args)),)
    inputs = tuple(v for v in group.inputs if v.name not in known)
    plain = [v for v in group.inputs if v.name in known and v.name in args]
    weights = [*plain, *(p.value for p in table.packed.values())]
    values = {v.name: v for v in (*group.inputs, *group.outputs)}
    return Program(
        inputs=inputs,
        outputs=group.outputs,
        kernels=table.kernels,
        body=steps,
        storage=allocate(steps, values, inputs, group.outputs, weights),
        constants=known,
        packed=table.packed,
        input_names=tuple(v.name for v in inputs),
        output_names=tuple(v.name for v in group.outputs),
    )


def random_array(value: Value, rng: np.random.Generator) -> npt.NDArray[Any]:
    """A tensor of small random numbers: normal floats, integers of 0 and 1 (valid as most indices), coin flips."""
    shape = value.static_shape()
    if dtypes.is_float(value.dtype):
        return rng.standard_normal(shape, dtype=np.float32).astype(dtypes.to_numpy(value.dtype), copy=False)
    return rng.integers(0, 2, shape).astype(dtypes.to_numpy(value.dtype))
