"""Calls without the native stack: a program with procedures is a loop over its blocks.

    while at >= 0:
        if at == 0: …; at = 1
        if at == 1: …; stack[depth + 1] = (return to block 2, …); depth += 1; at = 7
        …

Where a call returns to, and the counters of the loops around it, are in the host's memory; the values that it needs
afterwards are in frames of the workspace. Both have room for as many calls as the program allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import tirx

from tilewright.ir.bounds import Interval
from tilewright.ir.program import HostCall, HostLoop, Program
from tilewright_backends.host.blocks import Block, Blocks, Decide, Enter, Go, Leave, Next, Start, Stop, Trip, blocks_of
from tilewright_backends.lower.types import Prim

if TYPE_CHECKING:
    from tilewright_backends.host.function import EmitLaunch, HostFunction

_STATUS = 0
_FIRST = 1
"""Where the numbers of the first call begin; before them stands 0, or one more than the procedure called too deep."""
_STOP = -1


def control_bytes(program: Program) -> int:
    """Size of the control buffer; the host tree itself counts like a call."""
    return 8 * (_FIRST + (program.depth + 1) * blocks_of(program.body, program.procedures.values()).slots)


class Machine:
    """The code of a program with procedures.

    Args:
        control: 64-bit address of the control buffer.
        launch: emits a launch.
    """

    def __init__(self, host: HostFunction, control: Prim, launch: EmitLaunch) -> None:
        self.host = host
        self.code = host.code
        self.program = host.program
        self.launch = launch
        self.numbers = list(self.program.procedures)
        self.blocks: Blocks = blocks_of(self.program.body, self.program.procedures.values())
        self.control = host.array(control, "int64", _FIRST + (self.program.depth + 1) * self.blocks.slots)
        self.at = self.code.local("at", "int64", 1)
        self.depth = self.code.local("depth", "int64", 1)

    def emit(self) -> None:
        """The whole loop."""
        self._store(self.control, _i64(_STATUS), _i64(0))
        self._store(self.depth, _i64(0), _i64(0))
        self._store(self.at, _i64(0), _i64(0))
        with self.code.scope() as body:
            for number, block in enumerate(self.blocks.blocks):
                with self.code.when(tirx.EQ(self._load(self.at), _i64(number))):
                    self._block(block)
        running = tirx.GE(self._load(self.at), _i64(0))
        self.code.emit(tirx.While(running, tirx.SeqStmt(body) if len(body) > 1 else body[0]))

    def _block(self, block: Block) -> None:
        depth = self.code.let(self._load(self.depth), "depth")
        top = self.code.let(_i64(_FIRST) + depth * _i64(self.blocks.slots), "top")
        self.host.frame = self.host.frame_at(depth)
        for name, slot in block.counters.items():
            self.code.env[name] = self.code.let(self._slot(top, slot), "counter")
            self.code.bounds[name] = Interval(0, (1 << 31) - 1)
        if block.returned is not None:
            self._results(block.returned)
        self.host.steps(block.steps, self.launch)
        match block.end:
            case Go(to):
                self._go(to)
            case Decide(condition, then, orelse):
                self._decide(self.host.condition(condition), then, orelse)
            case Start(loop, counter, limit, head):
                self._store(self.control, top + _i64(counter), _i64(0))
                if loop.limit:
                    self._store(self.control, top + _i64(limit), self.host.scalar(loop.limit))
                self._go(head)
            case Trip(loop, counter, limit, body, after):
                self._decide(self._goes_on(loop, top, counter, limit), body, after)
            case Next(counter, head):
                self._store(self.control, top + _i64(counter), self._slot(top, counter) + _i64(1))
                self._go(head)
            case Enter(call, back):
                self._enter(call, back, depth, top)
            case Leave():
                self._store(self.depth, _i64(0), depth - _i64(1))
                self._store(self.at, _i64(0), self._slot(top, 0))
            case Stop():
                self._go(_STOP)

    def _goes_on(self, loop: HostLoop, top: Prim, counter: int, limit: int) -> Prim:
        now = self._slot(top, counter)
        tests = [] if loop.trip is None else [tirx.LT(now, self.code.index(loop.trip, "int64"))]
        if loop.limit:
            tests.append(tirx.LT(now, self._slot(top, limit)))
        if loop.condition:
            tests.append(self.host.condition(loop.condition))
        condition = tests[0]
        for test in tests[1:]:
            condition = tirx.And(condition, test)
        return condition

    def _enter(self, call: HostCall, back: int, depth: Prim, top: Prim) -> None:
        """A call, unless as many are active as may be."""
        fits = self.code.let(tirx.LT(depth, _i64(self.program.depth)), "fits")
        with self.code.when(tirx.Not(fits)):
            self._store(self.control, _i64(_STATUS), _i64(self.numbers.index(call.procedure) + 1))
            self._go(_STOP)
        with self.code.when(fits):
            params = self.program.procedures[call.procedure].params
            for source, target in zip(call.args, params, strict=True):
                self.host.copy(self.host.pointer(source), self.host.pointer(target, ahead=True), source)
            self._store(self.control, top + _i64(self.blocks.slots), _i64(back))
            self._store(self.depth, _i64(0), depth + _i64(1))
            self._go(self.blocks.entries[call.procedure])

    def _results(self, call: HostCall) -> None:
        """Fetches what the call that has just returned left in its frame."""
        for source, target in zip(self.program.procedures[call.procedure].results, call.results, strict=True):
            self.host.copy(self.host.pointer(source, ahead=True), self.host.pointer(target), target)

    def _decide(self, condition: Prim, then: int, orelse: int) -> None:
        taken = self.code.let(condition, "taken")
        with self.code.when(taken):
            self._go(then)
        with self.code.when(tirx.Not(taken)):
            self._go(orelse)

    def _go(self, to: int) -> None:
        self._store(self.at, _i64(0), _i64(to))

    def _slot(self, top: Prim, slot: int) -> Prim:
        return tirx.BufferLoad(self.control, [top + _i64(slot)])

    def _load(self, cell: Prim) -> Prim:
        return tirx.BufferLoad(cell, [_i64(0)])

    def _store(self, cell: Prim, index: Prim, number: Prim) -> None:
        self.code.emit(tirx.BufferStore(cell, number, [index]))


def _i64(number: int) -> Prim:
    return tirx.const(number, "int64")
