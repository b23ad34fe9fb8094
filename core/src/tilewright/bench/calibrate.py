"""Measuring what a device model needs: bandwidths, arithmetic peaks, and what starting a kernel costs. Seconds in all.

Everything runs through the compiler itself, so the numbers hold for the code that it generates. A cost is the
difference between a chain of kernels and a single one, which leaves out what a run costs once. On a machine that does
other work at the same time the numbers are those of what is left of it.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from tilewright.compiler import base_device, recipes_of
from tilewright.config.binding import Settings
from tilewright.device import DeviceModel, MemoryLevel
from tilewright.device.calibration import Calibration
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.ir.choice import TileChoice
from tilewright.ir.expr import Expr, Load, cast, const
from tilewright.ir.group import Group
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import Access, Axis, Op, Region, TensorOp, Value, Write, combiner, value
from tilewright.planning.connect import singletons
from tilewright.planning.propose.divisors import combinations
from tilewright.planning.requests import Request
from tilewright.planning.session import Session
from tilewright.recipes import evaluate
from tilewright.runtime.immediate import loaded

_CHAIN = 9
_LEAST_BYTES = 1 << 20
"""A level of less than this is passed through in less time than a kernel takes to start."""
_SIZES = {"cpu": 1024, "cuda": 4096}
"""Rows, columns and depth of the products from which arithmetic peaks are taken."""


@attrs.frozen
class Effort:
    """How long to measure.

    Args:
        rounds: timed runs of a program.
        scale: part of the usual sizes; below 1 for tests, where the numbers mean nothing.
    """

    rounds: int = 30
    scale: float = 1.0


def calibrate(settings: Settings, threads: int, effort: Effort = Effort()) -> Calibration:
    """Measures the configured target with the configured slots.

    Args:
        threads: of a CPU program; its device model is taken to have as many units.

    Raises:
        InputError: no code can be generated for the target.
    """
    device = base_device(settings)
    if device.plan_only:
        raise InputError(f"{settings.target} cannot be measured: {device.plan_only}.", "Choose another target.")
    if device.kind == "cpu":
        device = attrs.evolve(device, units=threads)
    bench = _Bench(settings, device, threads, effort)
    launch = bench.launch()
    return Calibration(
        target=str(settings.target),
        units=device.units,
        machine=platform.processor() or platform.machine(),
        bandwidth={x.name: bench.bandwidth(x, launch) for x in device.levels if bench.is_measured(x)},
        peak=dict(bench.peak(dtype, launch) for dtype in bench.products()),
        launch_seconds=launch,
    )


@attrs.frozen
class _Bench:
    settings: Settings
    device: DeviceModel
    threads: int
    effort: Effort

    def is_measured(self, level: MemoryLevel) -> bool:
        """Whether the level holds what kernels pass on to each other, and long enough to be timed."""
        return level.name not in ("register", "shared") and self._capacity(level) >= _LEAST_BYTES

    def launch(self) -> float:
        """Seconds from the end of one kernel to the start of the next, or of a parallel region."""
        return max(self._step(1024 * self.device.units), 1e-9)

    def bandwidth(self, level: MemoryLevel, launch: float) -> float:
        """Bytes per second of kernels that read one half of a level and write the other."""
        nearer = [x for x in self.device.levels if self._capacity(x) < self._capacity(level)]
        beside = 4 * max((self._capacity(x) for x in nearer), default=_LEAST_BYTES)
        held = min(self._capacity(level) / 2, max(beside, 1 << 28 if level.name == "dram" else 0))
        elements = max(int(held * self.effort.scale) // 8, 1024 * self.device.units)
        return 8 * elements / max(self._step(elements) - launch, 1e-9)

    def products(self) -> list[str]:
        """The element types whose products have a unit of their own."""
        halves = ["float16"] if any(name.startswith("fp16.") for name in self.device.peak) else []
        return ["float32", *halves]

    def peak(self, dtype: str, launch: float) -> tuple[str, float]:
        """The unit of arithmetic, and operations per second at which the chosen recipe's formula is right."""
        size = max(int(_SIZES.get(self.device.kind, 1024) * self.effort.scale), 64)
        module = _product(size, dtype)
        chosen: list[tuple[str, float]] = []

        def watched(group: Group, request: Request) -> tuple[TileChoice, ...]:
            choices: tuple[TileChoice, ...] = self.settings.service("propose")(group, request)
            match = next(m for m in request.session.matches(group) if m.recipe == choices[0].recipe)
            columns = {k: np.asarray([v], np.int64) for k, v in choices[0].params}
            flops, efficiency, tasks = (
                float(evaluate(x, columns)[0]) for x in (match.work.flops, match.work.efficiency, match.usage.tasks)
            )
            busy = tasks / (self.device.units * np.ceil(tasks / self.device.units))
            chosen.append((match.work.unit, flops / (max(efficiency, 1) / 100 * busy)))
            return choices

        seconds = self._median(module, watched)
        unit, operations = chosen[0]
        return unit, operations / max(seconds - launch, 1e-9)

    def _capacity(self, level: MemoryLevel) -> int:
        return level.bytes * (1 if level.shared_by_units else self.device.units)

    def _step(self, elements: int) -> float:
        """Seconds that one more kernel of a chain of element-wise kernels takes."""
        times = [self._median(_chain(n, elements), self._spread) for n in (1, _CHAIN)]
        return (times[1] - times[0]) / (_CHAIN - 1)

    def _spread(self, group: Group, request: Request) -> tuple[TileChoice, ...]:
        """The cheapest choice that gives every unit a task."""
        best: list[TileChoice] = []
        for match in request.session.matches(group):
            columns = combinations(match)
            rows = match.allowed(columns) & (evaluate(match.usage.tasks, columns) >= self.device.units)
            if rows.any():
                columns = {name: column[rows] for name, column in columns.items()}
                costs = request.session.cost(match, columns)
                row = int(np.argmin(costs))
                best.append(match.choice({k: int(v[row]) for k, v in columns.items()}, float(costs[row]), "spread"))
        return tuple(sorted(best, key=lambda c: c.cost)[:1])

    def _median(self, module: Module, propose: Callable[[Group, Request], tuple[TileChoice, ...]]) -> float:
        services = {slot: self.settings.service(slot) for slot in self.settings.slots}
        services |= {"connect": singletons.make(), "propose": propose}
        recipes = list(recipes_of(self.settings).values())
        session = Session(str(self.settings.target), self.device, recipes, services, frozenset(module.constants))
        program = session.service("planner")(module, session)
        inputs = [np.ones(v.static_shape(), dtypes.to_numpy(v.dtype)) for v in program.inputs]
        outputs = [np.empty(v.static_shape(), dtypes.to_numpy(v.dtype)) for v in program.outputs]
        with loaded(program, self.settings, self.threads) as native:
            native.run(inputs, outputs)
            native.measure(2)
            return float(np.median(native.measure(self.effort.rounds)))


def _chain(length: int, elements: int) -> Module:
    """`length` element-wise operators, each on the result of the one before."""
    axis = Axis("i", const(elements))
    values = [value(f"v{i}", "float32", (elements,)) for i in range(length + 1)]
    ops: list[Op] = []
    for source, target in itertools.pairwise(values):
        read, write = Access(source, (axis.var,)), Write(target, (axis.var,))
        ops.append(TensorOp(target.name, (axis,), (read,), (Load(0, "float32") + const(1.0, "float32"),), (write,)))
    return _module(values[:1], ops, values[-1:])


def _product(size: int, dtype: str) -> Module:
    """A square matrix product, summed in float32."""
    i, j, k = Axis("i", const(size)), Axis("j", const(size)), Axis("k", const(size), "reduce")
    a, b, y = (value(name, dtype, (size, size)) for name in "aby")

    def wide(slot: int) -> Expr:
        return cast(Load(slot, dtype), "float32")

    reads = (Access(a, (i.var, k.var)), Access(b, (k.var, j.var)))
    writes = (Write(y, (i.var, j.var)),)
    op = TensorOp("y", (i, j, k), reads, (wide(0) * wide(1),), writes, combiner("sum", "float32"))
    return _module([a, b], [op], [y])


def _module(params: Sequence[Value], ops: Sequence[Op], results: Sequence[Value]) -> Module:
    return Module({"main": Function("main", Region(tuple(params), tuple(ops), tuple(results)))})
