"""Emits `cpu.topk`.

The results of a row hold a binary heap of the best elements so far with the worst of them at its root, which an
element has to beat to enter; taking the roots off from the back sorts it (heapsort, J. W. J. Williams, 1964).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.ops import Routine, Value
from tilewright.ir.program import Kernel
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted
from tilewright_backends.lower.code import sequence
from tilewright_backends.lower.order import Element, beats
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import Prim, carrier, from_storage, to_storage
from tilewright_backends.recipes.selection import TopK, topk_of


def emit(kernel: Kernel, routine: Routine, semantics: Semantics) -> Emitted:
    """The kernel's function."""
    found = topk_of(routine)
    if found is None:
        raise InternalError(f"cpu.topk does not take kernel {kernel.name}.")
    function = CpuFunction(kernel, semantics)
    if found.count:
        block = kernel.choice["rows.block"]
        first = function.code.simplify(function.task * block)
        rows = function.code.simplify(minimum(const(found.rows) - first, const(block)))
        with function.code.loop("row", rows) as row:
            _Row(function, routine, found, first + row).run()
    return function.finish()


class _Row:
    """The code of one row."""

    def __init__(self, function: CpuFunction, routine: Routine, found: TopK, row: Expr) -> None:
        self.code = function.code
        self.found = found
        self.dtype = routine.inputs[0].dtype
        self._buffers = function.buffers
        self._input, self._values, self._indices = routine.inputs[0], routine.outputs[0], routine.outputs[1]
        # Whole tensors may pass 2^31 elements, a row does not.
        self._from = self._start(row * found.length, "from")
        self._to = self._start(row * found.count, "to")
        cell = self.code.local
        self._held, self._place = cell("held", carrier(self.dtype), 1), cell("place", "int64", 1)
        self._hole, self._child = cell("hole", "int32", 1), cell("child", "int32", 1)

    def _start(self, place: Expr, hint: str) -> Prim:
        return self.code.let(self.code.index(self.code.simplify(place), "int64"), hint)

    def run(self) -> None:
        """Heap of the first elements, then each further one that beats the root, then in order."""
        code, count = self.code, self.found.count
        with code.loop("i", count) as i:
            number = code.index(i, "int32")
            self._put(number, (self._read(number), tirx.Cast("int64", number)))
        with code.loop("i", count // 2) as i:
            start = code.index(code.simplify(count // 2 - 1 - i), "int32")
            self._sift(self._get(start), start, _number(count))
        with code.loop("i", self.found.length - count) as i:
            number = code.index(code.simplify(i + count), "int32")
            new = (code.bind(self._read(number)), tirx.Cast("int64", number))
            with code.when(self._beats(new, self._get(_number(0)))):
                self._sift(new, _number(0), _number(count))
        with code.loop("i", count - 1) as i:
            end = code.index(code.simplify(count - 1 - i), "int32")
            last = self._get(end)
            self._put(end, self._get(_number(0)))
            self._sift(last, _number(0), end)

    def _read(self, number: Prim) -> Prim:
        place = tirx.Add(self._from, tirx.Cast("int64", number))
        return from_storage(tirx.BufferLoad(self._buffers[self._input.name], [place]), self.dtype)

    def _at(self, value: Value, number: Prim) -> tuple[Prim, Prim]:
        return self._buffers[value.name], tirx.Add(self._to, tirx.Cast("int64", number))

    def _get(self, number: Prim) -> Element:
        values, place = self._at(self._values, number)
        value = from_storage(tirx.BufferLoad(values, [place]), self.dtype)
        indices, place = self._at(self._indices, number)
        return self.code.bind(value), self.code.bind(tirx.BufferLoad(indices, [place]))

    def _put(self, number: Prim, element: Element) -> None:
        values, place = self._at(self._values, number)
        self.code.emit(tirx.BufferStore(values, to_storage(element[0], self.dtype), [place]))
        indices, place = self._at(self._indices, number)
        self.code.emit(tirx.BufferStore(indices, element[1], [place]))

    def _beats(self, a: Element, b: Element) -> Prim:
        """Whether `a` stands before `b` in the result."""
        return beats(a, b, self.dtype, self.found.largest)

    def _sift(self, element: Element, start: Prim, size: Prim) -> None:
        """Puts `element` into the heap of `size` elements with a hole at `start`: worse children move up before it."""
        code = self.code
        self._set(self._held, element[0])
        self._set(self._place, element[1])
        self._set(self._hole, start)
        self._set(self._child, tirx.Add(tirx.Mul(start, _number(2)), _number(1)))
        child, held = _cell(self._child), (_cell(self._held), _cell(self._place))
        with self._while(tirx.LT(child, size)):
            with code.when(tirx.LT(tirx.Add(child, _number(1)), size)):
                right = self._get(tirx.Add(child, _number(1)))
                with code.when(self._beats(self._get(child), right)):
                    self._set(self._child, tirx.Add(child, _number(1)))
            worst = self._get(child)
            rises = code.bind(self._beats(held, worst))
            with code.when(rises):
                self._put(_cell(self._hole), worst)
                self._set(self._hole, child)
                self._set(self._child, tirx.Add(tirx.Mul(child, _number(2)), _number(1)))
            with code.when(tirx.Not(rises)):
                self._set(self._child, size)
        self._put(_cell(self._hole), held)

    def _set(self, cell: Prim, value: Prim) -> None:
        self.code.emit(tirx.BufferStore(cell, value, [_number(0)]))

    @contextmanager
    def _while(self, condition: Prim) -> Iterator[None]:
        with self.code.scope() as body:
            yield
        self.code.emit(tirx.While(condition, sequence(body)))


def _number(value: int) -> Prim:
    return tirx.const(value, "int32")


def _cell(cell: Prim) -> Prim:
    return tirx.BufferLoad(cell, [_number(0)])
