"""Launches on the CPU.

A launch of one phase is a parallel region of TVM's thread pool, whose end is the barrier. One whose units wait for
each other is one region in which each unit has a worker of its own: they spin at barriers and waits, then sleep. There
a barrier stands behind every phase, so each unit may read what all decide by without asking the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.errors import InternalError
from tilewright.ir.bounds import bounds_of
from tilewright.ir.events import COUNTER_BYTES, LINE, event_bytes, first_counters
from tilewright.ir.expr import Const, Expr, const
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Copy,
    Fetch,
    Fork,
    GridCall,
    GridControl,
    Item,
    Lane,
    Launch,
    Part,
    Phase,
    Program,
    Set,
    Signal,
    Task,
    Wait,
    copied_part,
    every_call,
    launches,
)
from tilewright.ir.verify.tree import decides
from tilewright_backends.host.function import Emit, HostFunction, call
from tilewright_backends.lower.types import Prim

WAITING = """\
#define _GNU_SOURCE
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define tw_sleep(counter, seen) syscall(SYS_futex, counter, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0)
#define tw_wake(counter) syscall(SYS_futex, counter, FUTEX_WAKE_PRIVATE, INT_MAX, 0, 0, 0)
#else
#define tw_sleep(counter, seen) sched_yield()
#define tw_wake(counter)
#endif
#if defined(__x86_64__)
#define tw_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define tw_pause() __asm__ volatile("yield")
#else
#define tw_pause()
#endif

/* Who has waited for ten microseconds lets others run, for where processors are short the one that is waited for may
   need this one's; and who has waited for a millisecond sleeps: to be woken takes fifty microseconds, and more on a
   virtual machine. Counts are compared by their difference: those of barriers in a long loop go round. */
static int32_t tw_asleep;
static int tw_reached(int32_t count, int32_t target) { return (int32_t)((uint32_t)count - (uint32_t)target) >= 0; }
int32_t tw_wait(int32_t* counter, int32_t target) {
  for (int spins = 0; spins < 3000; ++spins) {
    if (tw_reached(__atomic_load_n(counter, __ATOMIC_ACQUIRE), target)) return 0;
    if (spins < 1000) tw_pause();
    else sched_yield();
  }
  __atomic_fetch_add(&tw_asleep, 1, __ATOMIC_SEQ_CST);
  for (int32_t seen; !tw_reached(seen = __atomic_load_n(counter, __ATOMIC_SEQ_CST), target);) tw_sleep(counter, seen);
  __atomic_fetch_sub(&tw_asleep, 1, __ATOMIC_RELAXED);
  return 0;
}
int32_t tw_signal(int32_t* counter) {
  __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&tw_asleep, __ATOMIC_SEQ_CST)) tw_wake(counter);
  return 0;
}
/* Two numbers: who is there, and how often all were. The last one to come begins the next round. */
int32_t tw_barrier(int32_t* there, int32_t units) {
  int32_t* rounds = there + 1;
  int32_t seen = __atomic_load_n(rounds, __ATOMIC_SEQ_CST);
  if (__atomic_add_fetch(there, 1, __ATOMIC_SEQ_CST) < units) return tw_wait(rounds, (int32_t)((uint32_t)seen + 1));
  __atomic_store_n(there, 0, __ATOMIC_SEQ_CST);
  return tw_signal(rounds);
}
"""
"""C source that is linked into the library of a program whose units wait for each other."""


def together(program: Program) -> int:
    """How many units of a program must be at work at once, by the bounds of the symbols; 0 if none."""
    waiting = [x for x in launches(program.steps) if x.envelope.cooperative]
    return max((x.envelope.units for x in waiting), default=0)


def emit_launch(host: HostFunction, launch: Launch) -> None:
    """The code of one launch."""
    if launch.envelope.cooperative:
        _Region(host, launch).emit()
        return
    for part in launch.body:
        if not isinstance(part, Phase):
            raise InternalError(f"launch {launch.name} has control, and its units need not be at work at once.")
        _phase(host, launch, part)


def _phase(host: HostFunction, launch: Launch, phase: Phase) -> None:
    lanes = [lane for lane in phase.lanes if lane.items]
    if not lanes:
        return
    items = _Items(host, launch)
    if len(lanes) == 1:
        units = lanes[0].units
        several = bounds_of(units, host.code.bounds).high > 1
        with host.code.loop("unit", units, "parallel" if several else "serial") as unit:
            items.lane(lanes[0], const(lanes[0].first) + unit)
        return
    last = max(lane.first + bounds_of(lane.units, host.code.bounds).high for lane in lanes)
    with host.code.loop("unit", last, "parallel") as unit:
        items.lanes(lanes, unit, last)


class _Items:
    """What units do, as code.

    Args:
        base: address of the launch's event buffer, if it has one.
    """

    def __init__(self, host: HostFunction, launch: Launch, base: Prim = None) -> None:
        self._host = host
        self._name = launch.name
        self._counters = first_counters(launch)
        self._base = base

    def lanes(self, lanes: Sequence[Lane], unit: Expr, units: int) -> None:
        """Each unit does what its lane says.

        Args:
            units: of the launch.
        """
        code = self._host.code
        for lane in lanes:
            if lane.first == 0 and lane.units == const(units):
                self.lane(lane, unit)
                continue
            inside = (const(lane.first) <= unit) & (unit < const(lane.first) + lane.units)
            with code.when(code.index(code.simplify(inside))):
                self.lane(lane, unit)

    def lane(self, lane: Lane, unit: Expr) -> None:
        """What one unit does."""
        name_variable(self._host, UNIT, unit)
        self._items(lane.items)

    def _items(self, items: Sequence[Item]) -> None:
        for item in items:
            match item:
                case Task():
                    self._task(item)
                case Fetch():
                    raise InternalError(f"launch {self._name}: units of a CPU keep what they read in their caches.")
                case Signal():
                    self._call("tw_signal", self.cell(item.event, item.index))
                case Wait():
                    target = self._host.code.index(item.target, "int32")
                    self._call("tw_wait", self.cell(item.event, item.index), target)
                case Copy():
                    self._copy(item)
                case Set():
                    self._host.set(item)
                case BlockControl():
                    control(self._host, item, partial(self._items, item.body), partial(self._items, item.orelse))

    def cell(self, event: str, index: Expr) -> Prim:
        """The address of the counter of an index of an event."""
        place = const(2 * LINE) + (const(self._counters[event]) + index) * COUNTER_BYTES
        return counter_at(self._host, self._base, place)

    def _copy(self, copy: Copy) -> None:
        """The unit's part of a copy."""
        code = self._host.code
        size = self._host.bytes_of(copy.source)
        low, high = (code.simplify(x) for x in copied_part(copy, size))
        first = low if copy.row is None else low + copy.row * size
        target = self._host.pointer(copy.target, code.index(code.simplify(first), "int64"))
        source = self._host.pointer(copy.source, code.index(low, "int64"))
        self._call("memcpy", target, source, code.index(code.simplify(high - low), "int64"))

    def _call(self, function: str, *args: Prim) -> None:
        self._host.code.evaluate(tirx.call_extern("int32", function, *args))

    def _task(self, task: Task) -> None:
        host = self._host
        given = [*(host.pointer(x) for x in task.args), *host.symbol_values(task.kernel)]
        kernel = host.kernels[task.kernel]
        if isinstance(task.count, Const) and task.count.value == 1:
            host.code.evaluate(call(kernel, [host.code.index(task.first, "int32"), *given]))
            return
        with host.code.loop("run", task.count) as run:
            number = host.code.simplify(task.first + run * task.stride)
            host.code.evaluate(call(kernel, [host.code.index(number, "int32"), *given]))


class _Region:
    """A launch whose units wait for each other, as one parallel region."""

    def __init__(self, host: HostFunction, launch: Launch) -> None:
        self._host = host
        self._launch = launch
        self._units = launch.envelope.units
        self._base = host.base(launch.event_buffer)
        self._items = _Items(host, launch, self._base)

    def emit(self) -> None:
        """The region, after all counters are cleared."""
        code = self._host.code
        size = tirx.const(event_bytes(self._launch), "int64")
        zero = tirx.const(0, "int32")
        code.evaluate(tirx.call_extern("int32", "memset", counter_at(self._host, self._base, const(0)), zero, size))
        with code.loop("unit", self._units, "parallel") as unit:
            self._parts(self._launch.body, unit, outermost=True)

    def _parts(self, parts: Sequence[Part], unit: Expr, outermost: bool = False) -> None:
        for number, part in enumerate(parts):
            if isinstance(part, Phase):
                self._items.lanes([x for x in part.lanes if x.items], unit, self._units)
                if not outermost or number < len(parts) - 1:
                    self._barrier()
                continue
            if isinstance(part, GridCall | Fork):
                called = ", ".join(x.procedure for x in every_call((part,)))
                raise InternalError(f"launch {self._launch.name} calls {called}, which is the host's on a CPU.")
            body, orelse = (partial(self._parts, x, unit) for x in (part.body, part.orelse))
            control(self._host, part, body, orelse)

    def _barrier(self) -> None:
        counter = counter_at(self._host, self._base, const(0))
        self._host.code.evaluate(tirx.call_extern("int32", "tw_barrier", counter, tirx.const(self._units, "int32")))


def control(host: HostFunction, found: GridControl | BlockControl, body: Emit, orelse: Emit) -> None:
    """A loop or a branch of a launch, whose counter the expressions inside know."""
    if not found.counter:
        host.branch(found.condition, body, orelse)
    elif found.trip is None or decides(found):
        host.loop(found, body)
    else:
        with host.code.loop(found.counter, found.trip) as value:
            name_variable(host, found.counter, value)
            body()


def name_variable(host: HostFunction, name: str, value: Expr) -> None:
    """Makes `name` stand for a loop variable."""
    if not name:
        return
    host.code.env[name] = host.code.index(value)
    host.code.bounds[name] = bounds_of(value, host.code.bounds)


def counter_at(host: HostFunction, base: Prim, place: Expr) -> Prim:
    """The address of a counter, `place` bytes into an event buffer, as a pointer to its 32 bits."""
    offset = host.code.index(host.code.simplify(place), "int64")
    return tirx.reinterpret(PointerType(PrimType("int32")), tirx.Add(base, tirx.Cast("uint64", offset)))
