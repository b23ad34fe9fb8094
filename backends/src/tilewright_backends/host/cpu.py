"""Launches on the CPU: each phase is a parallel region of TVM's thread pool, whose end is the barrier."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.errors import InternalError
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Const, Expr, const
from tilewright.ir.program import UNIT, BlockControl, GridControl, Item, Lane, Launch, Phase, Task
from tilewright_backends.host.function import HostFunction, call


def emit_launch(host: HostFunction, launch: Launch) -> None:
    """The code of one launch."""
    _body(host, launch.name, launch.body)


def _body(host: HostFunction, name: str, body: Sequence[Phase | GridControl]) -> None:
    for part in body:
        if isinstance(part, Phase):
            _phase(host, name, part)
        elif part.trip is not None and not part.condition:
            with host.code.loop(part.counter or "trip", part.trip) as counter:
                _alias(host, part.counter, counter)
                _body(host, name, part.body)
        else:
            raise InternalError(f"launch {name}: control inside a launch that a value decides is not generated yet.")


def _phase(host: HostFunction, name: str, phase: Phase) -> None:
    lanes = [lane for lane in phase.lanes if lane.items]
    if not lanes:
        return
    if len(lanes) == 1:
        units = lanes[0].units
        several = bounds_of(units, host.code.bounds).high > 1
        with host.code.loop("unit", units, "parallel" if several else "serial") as unit:
            _lane(host, name, lanes[0], const(lanes[0].first) + unit)
        return
    last = max(lane.first + bounds_of(lane.units, host.code.bounds).high for lane in lanes)
    with host.code.loop("unit", last, "parallel") as unit:
        for lane in lanes:
            inside = (const(lane.first) <= unit) & (unit < const(lane.first) + lane.units)
            with host.code.when(host.code.index(host.code.simplify(inside))):
                _lane(host, name, lane, unit)


def _alias(host: HostFunction, name: str, value: Expr) -> None:
    """Makes `name` stand for a loop variable."""
    if not name:
        return
    host.code.env[name] = host.code.index(value)
    host.code.bounds[name] = bounds_of(value, host.code.bounds)


def _lane(host: HostFunction, name: str, lane: Lane, unit: Expr) -> None:
    _alias(host, UNIT, unit)
    _items(host, name, lane.items)


def _items(host: HostFunction, name: str, items: Sequence[Item]) -> None:
    for item in items:
        if isinstance(item, Task):
            _task(host, item)
        elif isinstance(item, BlockControl) and item.trip is not None and not item.condition:
            with host.code.loop(item.counter or "trip", item.trip) as counter:
                _alias(host, item.counter, counter)
                _items(host, name, item.body)
        else:
            raise InternalError(f"launch {name}: {type(item).__name__} inside a unit is not generated yet.")


def _task(host: HostFunction, task: Task) -> None:
    given = [*(host.pointer(x) for x in task.args), *host.symbol_values(task.kernel)]
    kernel = host.kernels[task.kernel]
    if isinstance(task.count, Const) and task.count.value == 1:
        host.code.evaluate(call(kernel, [host.code.index(task.first, "int32"), *given]))
        return
    with host.code.loop("run", task.count) as run:
        number = host.code.simplify(task.first + run * task.stride)
        host.code.evaluate(call(kernel, [host.code.index(number, "int32"), *given]))
