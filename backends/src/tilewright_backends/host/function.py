"""The entry of a library: runs a program's host tree over a table of buffer addresses.

The table has one 64-bit address per buffer of the program's storage, in the storage's order. How a launch is made is
the target's affair; loops, branches, copies and addresses are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import tirx
from tvm.ir import GlobalVar, PointerType, PrimType

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const, Expr
from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostSet, HostStep, Launch, Program
from tilewright.planning.storage import byte_size
from tilewright_backends.lower.code import Code
from tilewright_backends.lower.types import Prim, storage

EmitLaunch = Callable[["HostFunction", Launch], None]


class HostFunction:
    """The host function under construction.

    Attributes:
        code: its statements.
        program: what it runs.
        kernels: global variable of each kernel's function, by the kernel's name.
    """

    def __init__(self, program: Program, kernels: Mapping[str, GlobalVar]) -> None:
        self.code = Code()
        self.program = program
        self.kernels = kernels
        self._table = tirx.Var("table", PointerType(PrimType("uint64")))
        buffers = list(program.storage.buffers)
        table = tirx.decl_buffer((max(len(buffers), 1),), "uint64", "addresses", data=self._table, layout=None)
        self.code.emit(tirx.DeclBuffer(table, data=self._table))
        self._bases = {
            name: self.code.let(tirx.BufferLoad(table, [tirx.const(i, "int32")]), f"base{i}")
            for i, name in enumerate(buffers)
        }

    def address(self, name: str) -> Prim:
        """The 64-bit address of a value."""
        placement = self.program.storage.placements[name]
        base = self._bases[placement.buffer]
        return tirx.Add(base, tirx.const(placement.offset, "uint64")) if placement.offset else base

    def pointer(self, name: str, offset: Prim | None = None) -> Prim:
        """The address of a value, `offset` bytes further on, as a pointer to its elements."""
        dtype = storage(self.program.storage.placements[name].value.dtype)
        address = self.address(name)
        if offset is not None:
            address = tirx.Add(address, tirx.Cast("uint64", offset))
        return tirx.reinterpret(PointerType(PrimType(dtype)), address)

    def row_offset(self, copy: HostCopy) -> Prim | None:
        """Bytes in front of the piece of the target that a copy writes; None when it writes all of it."""
        if copy.row is None:
            return None
        return self.code.index(self.code.simplify(copy.row * self.bytes_of(copy.source)), "int64")

    def bytes_of(self, name: str) -> int:
        """Bytes of a value."""
        return byte_size(self.program.storage.placements[name].value)

    def scalar(self, name: str) -> Prim:
        """A scalar value as it stands in memory."""
        return tirx.BufferLoad(self._cell(name), [tirx.const(0, "int32")])

    def _cell(self, name: str) -> Prim:
        dtype = storage(self.program.storage.placements[name].value.dtype)
        pointer = self.code.let(self.pointer(name), "scalar")
        buffer = tirx.decl_buffer((1,), dtype, self.code.unique("cell"), data=pointer, layout=None)
        self.code.emit(tirx.DeclBuffer(buffer, data=pointer))
        return buffer

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
                    self._copy(step)
                case HostSet():
                    self._set(step)
                case HostIf():
                    # Read once: the first branch may write over it.
                    taken = self.code.let(self.condition(step.condition), "taken")
                    with self.code.when(taken):
                        self.steps(step.then, launch)
                    with self.code.when(tirx.Not(taken)):
                        self.steps(step.orelse, launch)
                case HostLoop():
                    self._loop(step, launch)

    def _copy(self, copy: HostCopy) -> None:
        target = self.pointer(copy.target, self.row_offset(copy))
        size = tirx.const(self.bytes_of(copy.source), "int64")
        self.code.evaluate(tirx.call_extern("int32", "memcpy", target, self.pointer(copy.source), size))

    def _set(self, step: HostSet) -> None:
        cell = self._cell(step.target)
        number = self.code.index(step.value, "int64")
        self.code.emit(tirx.BufferStore(cell, tirx.Cast(str(cell.dtype), number), [tirx.const(0, "int32")]))

    def _loop(self, loop: HostLoop, launch: EmitLaunch) -> None:
        """A counter on the stack, so that a loop that ends early needs no break."""
        if loop.trip is None and not loop.condition and not loop.limit:
            raise InternalError(f"host loop {loop.counter!r} has neither a trip count nor a condition.")
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
            self.steps(loop.body, launch)
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


def call(kernel: GlobalVar, args: Sequence[Prim]) -> Prim:
    """A direct call of a kernel's function."""
    return tvm.ir.Call(kernel, list(args), ret_ty="int32")
