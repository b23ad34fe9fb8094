"""Statements of one GPU kernel under construction: threads, registers, shared memory, barriers, exchanges."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval, bounds_of
from tilewright.ir.expr import Const, Expr, Extent, Var, const
from tilewright_backends.lower.code import Code, sequence
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import Prim


def i32(value: int) -> Prim:
    """An int32 literal."""
    return tirx.IntImm("int32", value)


def pointer(name: str, dtype: str, scope: str = "global") -> Prim:
    """A pointer variable to elements of `dtype`."""
    return tirx.Var(name, PointerType(PrimType(dtype), scope))


class GpuBody(Code):
    """Collects the statements of one kernel. What kinds of GPUs say differently is abstract.

    Args:
        threads: threads of a block.
        tasks: number of tasks; a task is what one block does.

    Attributes:
        warp: threads that run in lockstep and can exchange values.
        semantics: the meaning of operators.
        asynchronous: whether memory is copied to shared memory without passing registers, by `copy_ahead`.
        thread: the thread's number in the block, as a variable of the tile IR.
        task: the task's number, likewise.
        params: flat buffer of each value that the kernel takes a pointer to, by value name.
        sliced: whether it also takes pointers to the slices of a task, and reads these operands there.
        shared_bytes: shared memory that buffers take so far.
        together: how many blocks of a multiprocessor the compiler leaves registers for. It spills none but what these
            would not have; with 0, it may spill some so that more blocks fit.

    All indices are into flat buffers. Every shared buffer has its own bytes.
    """

    warp: int
    semantics: Semantics
    asynchronous = False

    def __init__(self, threads: int, tasks: int) -> None:
        super().__init__()
        self.threads = threads
        self.tasks = tasks
        self.params: dict[str, Prim] = {}
        self.sliced = False
        self.shared_bytes = 0
        self.together = 0
        self.thread_var = tirx.Var("tid", "int32")
        self.task_var = tirx.Var("task", "int32")
        self.thread: Expr = self.define("tid", self.thread_var, Interval(0, threads - 1))
        self.task: Expr = self.define("task", self.task_var, Interval(0, tasks - 1))

    @property
    def launched_bytes(self) -> int:
        """Shared memory that a launch has to ask for."""
        return 0

    def take(self, name: str, address: Prim, dtype: str, count: int) -> None:
        """Adds a value that the kernel takes a pointer to, of `count` elements."""
        self.params[name] = self.view(address, dtype, count)

    @abstractmethod
    def shared(self, dtype: str, count: int, hint: str = "tile", align: int = 16) -> Prim:
        """A buffer of the block's shared memory, at a multiple of `align` bytes (at most 1024)."""

    @abstractmethod
    def sync(self) -> None:
        """A barrier of all threads of the block, behind which all see what each has written to shared memory."""

    @abstractmethod
    def warp_sync(self) -> None:
        """The same of the threads of a warp."""

    @abstractmethod
    def across(self, value: Prim, distance: int) -> Prim:
        """What the lane has whose number differs in the bit `distance`; all lanes of the warp must come here."""

    @abstractmethod
    def from_lane(self, value: Prim, lane: Prim) -> Prim:
        """What another lane of the warp has; all lanes of the warp must come here."""

    def in_order(self) -> None:
        """A point over which the compiler moves nothing: loads in front of it would take too many registers."""

    def settled(self, value: Prim) -> Prim:
        """`value`, computed here even where it is used in branches that come later.

        A compiler that would move the computation there keeps what it is computed from in registers.
        """
        return value

    def settle(self, registers: Prim, first: int, count: int) -> None:
        """The same of `count` registers from `first` on: what is computed into them is computed before this point."""

    def copy_ahead(self, to: Prim, source: Prim, size: Prim, mine: Prim | None) -> None:
        """Starts a copy of `size` bytes (0 to 16) to shared memory, with zeros for the rest of 16.

        Args:
            mine: whether this thread copies at all; None: always.
        """
        raise InternalError("this kind of GPU has no asynchronous copies.")

    def copies_end(self) -> None:
        """Makes the copies that this thread has started since the last call a group, which may be empty."""

    def wait_for_copies(self, groups: int) -> None:
        """Waits until at most `groups` groups of any thread's copies are under way, with a barrier of the block."""
        self.sync()

    def below(self, number: Expr, total: Extent) -> Prim | None:
        """The condition `number < total`, or None where it always holds."""
        condition = self.simplify(number < total)
        if isinstance(condition, Const) and condition.value:
            return None
        return self.bind(self.index(condition), "inside")

    def hold(self, expr: Expr, hint: str) -> Expr:
        """`expr` computed once: a variable of the tile IR with its bounds, or the expression itself if it is a leaf."""
        short = self.simplify(expr)
        if isinstance(short, (Const, Var)):
            return short
        return self.define(hint, self.bind(self.index(short), hint), bounds_of(short, self.bounds))

    @staticmethod
    def constant(value: int) -> Expr:
        """A literal of the tile IR."""
        return const(value)

    def registers(self, dtype: str, count: int, hint: str = "reg") -> Prim:
        """Registers: an array that is only indexed by constants once loops are unrolled."""
        buffer = tirx.decl_buffer((count,), dtype, self.unique(hint), scope="local", layout=None)
        self.emit(tirx.AllocBuffer(buffer))
        return buffer

    def view(self, of: Prim, dtype: str, count: int) -> Prim:
        """A flat buffer over a pointer or another buffer; `dtype` may be a vector type such as `float32x4`."""
        data = of if isinstance(of.ty, PointerType) else of.data
        buffer = tirx.decl_buffer((count,), dtype, self.unique("view"), data=data, layout=None)
        self.emit(tirx.DeclBuffer(buffer, data=data))
        return buffer

    def vectors(self, buffer: Prim, lanes: int) -> Prim:
        """`buffer` seen as vectors of `lanes` elements."""
        if lanes == 1:
            return buffer
        return self.view(buffer, f"{buffer.dtype}x{lanes}", -(-int(buffer.shape[0]) // lanes))

    def store(self, buffer: Prim, index: Prim, value: Prim) -> None:
        self.emit(self.storing(buffer, index, value))

    @contextmanager
    def repeat(self, extent: int, hint: str = "i", *, unroll: bool = True) -> Iterator[Prim]:
        """`for hint in range(extent)` whose variable is used in TIR directly."""
        with self.loop(hint, extent, "unrolled" if unroll else "serial") as counter:
            yield self.index(counter, "int32")

    @contextmanager
    def branches(self, condition: Prim | None) -> Iterator[Callable[[], None]]:
        """`if condition: … else: …`; calling what it yields starts the second block. With None there is no branch."""
        if condition is None:
            yield lambda: None
            return
        self._frames.append([])
        blocks: list[Prim] = []

        def otherwise() -> None:
            blocks.append(sequence(self._frames.pop()))
            self._frames.append([])

        yield otherwise
        second = sequence(self._frames.pop())
        if len(blocks) != 1:
            raise InternalError("a two-way branch needs exactly two blocks.")
        self.emit(tirx.IfThenElse(condition, blocks[0], second))
