"""The entry of a library: runs a program's host tree over a table of buffer addresses.

The table has one 64-bit address per buffer of the program's storage, in the storage's order, then that of the control
buffer for a program whose host makes calls, that of cells where the device decides something, and then the value of
each symbol. How a launch is made is the target's affair; loops, branches, calls, copies and addresses are the same for
all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import GlobalVar, PointerType, PrimType

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const, Expr
from tilewright.ir.graphs import graph_control
from tilewright.ir.program import (
    BlockControl,
    Copy,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Launch,
    Program,
    Set,
)
from tilewright.ir.stack import STATUS
from tilewright_backends.buffers import CELL_BYTES, CELLS, CONTROL
from tilewright_backends.host.machine import Machine, control_bytes
from tilewright_backends.lower.code import Code, symbol_dtype
from tilewright_backends.lower.types import Prim, storage

EmitLaunch = Callable[["HostFunction", Launch], None]
Emit = Callable[[], None]
"""Emits the statements of a body."""


class HostFunction:
    """The host function under construction.

    Attributes:
        code: its statements.
        program: what it runs.
        kernels: global variable of each kernel's function, by the kernel's name.
        frame: address of the frame of the procedure that runs.
    """

    def __init__(self, program: Program, kernels: Mapping[str, GlobalVar]) -> None:
        self.code = Code()
        self.program = program
        self.kernels = kernels
        self._table = tirx.Var("table", PointerType(PrimType("uint64")))
        self.frame: Prim = None
        buffers = [name for name, _, _ in buffer_table(program)]
        length = max(len(buffers) + len(program.symbols), 1)
        table = tirx.decl_buffer((length,), "uint64", "addresses", data=self._table, layout=None)
        self.code.emit(tirx.DeclBuffer(table, data=self._table))
        self._bases = {
            name: self.code.let(tirx.BufferLoad(table, [tirx.const(i, "int32")]), f"base{i}")
            for i, name in enumerate(buffers)
        }
        for i, symbol in enumerate(program.symbols, len(buffers)):
            number = tirx.Cast(symbol_dtype(symbol), tirx.BufferLoad(table, [tirx.const(i, "int32")]))
            self.code.enter(symbol, self.code.let(number, symbol.name))

    def run(self, launch: EmitLaunch) -> None:
        """The code of the whole program."""
        if called_by_host(self.program):
            Machine(self, self._bases[CONTROL], launch).emit()
        else:
            self.steps(self.program.body, launch)

    def entry(self, name: str) -> Prim:
        """The 64-bit address in the table of a buffer that the program itself does not have."""
        return self._bases[name]

    def base(self, buffer: str) -> Prim:
        """The 64-bit address of a buffer; of one of frames, that of the frame of the procedure that runs."""
        return self.frame if self.program.storage.buffers[buffer].owner == "frame" else self._bases[buffer]

    def base_for(self, launch: Launch, buffer: str) -> Prim:
        """As `base`; of frames, for a launch that makes calls, the address of the first."""
        return self._bases[buffer] if launch.calls else self.base(buffer)

    def address(self, name: str, ahead: bool = False) -> Prim:
        """The 64-bit address of a value; `ahead`: of one in a frame, in the frame of the next deeper call."""
        placement = self.program.storage.placements[name]
        buffer = self.program.storage.buffers[placement.buffer]
        base, offset = self.base(placement.buffer), placement.offset
        if ahead and buffer.owner == "frame":
            offset += buffer.bytes
        return tirx.Add(base, tirx.const(offset, "uint64")) if offset else base

    def frame_at(self, depth: Prim) -> Prim:
        """The address of the frame of the call at a depth, of which the first is 1."""
        for name, buffer in self.program.storage.buffers.items():
            if buffer.owner == "frame" and buffer.kind == "workspace":
                before = (depth - tirx.const(1, "int64")) * tirx.const(buffer.bytes, "int64")
                return self.code.let(tirx.Add(self._bases[name], tirx.Cast("uint64", before)), "frame")
        return None

    def array(self, address: Prim, dtype: str, elements: int) -> Prim:
        """The array at an address."""
        pointer = self.code.let(tirx.reinterpret(PointerType(PrimType(dtype)), address), "array")
        buffer = tirx.decl_buffer((elements,), dtype, self.code.unique("cells"), data=pointer, layout=None)
        self.code.emit(tirx.DeclBuffer(buffer, data=pointer))
        return buffer

    def pointer(self, name: str, offset: Prim | None = None, ahead: bool = False) -> Prim:
        """The address of a value, `offset` bytes further on, as a pointer to its elements."""
        dtype = storage(self.program.storage.placements[name].value.dtype)
        address = self.address(name, ahead)
        if offset is not None:
            address = tirx.Add(address, tirx.Cast("uint64", offset))
        return tirx.reinterpret(PointerType(PrimType(dtype)), address)

    def row_offset(self, copy: HostCopy | Copy) -> Prim | None:
        """Bytes in front of the piece of the target that a copy writes; None when it writes all of it."""
        if copy.row is None:
            return None
        return self.code.index(self.code.simplify(copy.row * self.bytes_of(copy.source)), "int64")

    def bytes_of(self, name: str) -> Expr:
        """Bytes of a value, by the values of the symbols."""
        value = self.program.storage.placements[name].value
        return value.num_elements() * dtypes.size_of(value.dtype)

    def symbol_values(self, kernel: str) -> list[Prim]:
        """The values of the symbols that a kernel takes."""
        return [self.code.env[x.name] for x in self.program.kernels[kernel].symbols]

    def scalar(self, name: str) -> Prim:
        """A scalar value as it stands in memory."""
        return tirx.BufferLoad(self._cell(name), [tirx.const(0, "int32")])

    def _cell(self, name: str) -> Prim:
        dtype = storage(self.program.storage.placements[name].value.dtype)
        return self.array(self.address(name), dtype, 1)

    def condition(self, name: str) -> Prim:
        """Whether a scalar value is not zero."""
        value = self.scalar(name)
        return tirx.NE(value, tirx.const(0, str(value.ty.dtype)))

    def steps(self, steps: Sequence[HostStep], launch: EmitLaunch) -> None:
        """The code of host steps, in order."""
        for step in steps:
            match step:
                case Launch():
                    launch(self, step)
                case HostCopy():
                    self.host_copy(step)
                case HostSet():
                    self.set(step)
                case HostIf():
                    sides = (partial(self.steps, x, launch) for x in (step.then, step.orelse))
                    self.host_branch(step, *sides)
                case HostLoop():
                    self.host_loop(step, partial(self.steps, step.body, launch))
                case HostCall():
                    raise InternalError(f"the call of {step.procedure} is not at the end of a block.")

    def host_copy(self, step: HostCopy) -> None:
        """A copy of the host program."""
        target = self.pointer(step.target, self.row_offset(step))
        self.copy(self.pointer(step.source), target, step.source)

    def host_branch(self, step: HostIf, then: Emit, orelse: Emit) -> None:
        """A branch of the host program."""
        self.branch(step.condition, then, orelse)

    def host_loop(self, step: HostLoop, emit: Emit) -> None:
        """A loop of the host program."""
        self.loop(step, emit)

    def copy(self, source: Prim, target: Prim, name: str) -> None:
        """Copies as many bytes as the value `name` has from one address to another."""
        size = self.code.index(self.bytes_of(name), "int64")
        self.code.evaluate(tirx.call_extern("int32", "memcpy", target, source, size))

    def set(self, step: HostSet | Set) -> None:
        """Writes an integer into a scalar."""
        cell = self._cell(step.target)
        number = self.code.index(step.value, "int64")
        self.code.emit(tirx.BufferStore(cell, tirx.Cast(str(cell.dtype), number), [tirx.const(0, "int32")]))

    def branch(self, condition: str, then: Emit, orelse: Emit) -> None:
        """A branch on a scalar value, which is read once: the first side may write over it."""
        taken = self.code.let(self.condition(condition), "taken")
        with self.code.when(taken):
            then()
        with self.code.when(tirx.Not(taken)):
            orelse()

    def loop(self, loop: HostLoop | GridControl | BlockControl, emit: Emit) -> None:
        """A loop, with a counter on the stack, so that one that ends early needs no break."""
        if loop.trip is None and not loop.condition and not loop.limit:
            raise InternalError(f"loop {loop.counter!r} has neither a trip count nor a condition.")
        limit = self.code.let(self.scalar(loop.limit), "limit") if loop.limit else None
        counter = self.code.local("counter", "int64", 1)
        zero = tirx.const(0, "int32")
        self.code.emit(tirx.BufferStore(counter, tirx.const(0, "int64"), [zero]))
        now = tirx.BufferLoad(counter, [zero])
        # The condition is read again before every trip: its buffer is declared outside of the loop.
        tests = [] if loop.trip is None else [tirx.LT(now, self.code.index(loop.trip, "int64"))]
        if limit is not None:
            tests.append(tirx.LT(now, limit))
        if loop.condition:
            tests.append(self.condition(loop.condition))
        self.code.env[loop.counter] = now
        self.code.bounds[loop.counter] = Interval(0, _trips(loop.trip))
        with self.code.scope() as body:
            emit()
            self.code.emit(tirx.BufferStore(counter, tirx.Add(now, tirx.const(1, "int64")), [zero]))
        condition = tests[0]
        for test in tests[1:]:
            condition = tirx.And(condition, test)
        self.code.emit(tirx.While(condition, tirx.SeqStmt(body) if len(body) > 1 else body[0]))

    def finish(self, entry: str) -> Prim:
        """The exported function, called `entry`."""
        return tirx.PrimFunc([self._table], self.code.finish()).with_attr("global_symbol", entry)


def _trips(trip: Expr | None) -> int:
    return int(trip.value) if isinstance(trip, Const) else (1 << 31) - 1


def buffer_table(program: Program) -> list[tuple[str, str, int]]:
    """Name, kind and bytes of each entry of the table, in order."""
    buffers = program.storage.buffers
    table: list[tuple[str, str, int]] = [(name, x.kind, program.size_of(x)) for name, x in buffers.items()]
    if called_by_host(program):
        table.append((CONTROL, CONTROL, control_bytes(program)))
    decided = sum(1 for _ in graph_control(program.body))
    return [*table, (CELLS, "workspace", CELL_BYTES * decided)] if decided else table


def called_by_host(program: Program) -> bool:
    """Whether the host program makes calls, and not its launches alone."""
    return any(not x.parts for x in program.procedures.values())


def recursion(program: Program) -> dict[str, Any]:
    """What a loader needs to say which call went too deep; nothing without procedures.

    `status` is the buffer in which launches report that.
    """
    status = {"status": STATUS} if STATUS in program.storage.buffers else {}
    called = {"procedures": list(program.procedures), "depth": program.depth, **status}
    return called if program.procedures else {}


def ranges(program: Program) -> dict[str, Any]:
    """The symbols whose values follow the buffers in the table, as [name, smallest, largest]; nothing without any."""
    return {"symbols": [[x.name, x.lower, x.upper] for x in program.symbols]} if program.symbols else {}


def call(kernel: GlobalVar, args: Sequence[Prim]) -> Prim:
    """A direct call of a kernel's function."""
    return tvm.ir.Call(kernel, list(args), ret_ty="int32")
