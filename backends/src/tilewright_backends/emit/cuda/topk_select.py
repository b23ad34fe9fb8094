"""TopK by selection: each result is the best of the elements that stand behind the last one."""

from __future__ import annotations

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr
from tilewright.ir.ops import Routine
from tilewright.ir.program import Kernel
from tilewright_backends.emit.cuda.body import Body, i32
from tilewright_backends.lower.order import Element, before
from tilewright_backends.lower.types import Prim, carrier, from_storage, literal, to_storage
from tilewright_backends.recipes.topk import TopK, topk_of

NONE = -1
"""Position that stands for no element."""


def emit(body: Body, kernel: Kernel, routine: Routine) -> None:
    """The code of one task of a kernel: one row."""
    found = topk_of(routine)
    if found is None:
        raise InternalError(f"cuda.topk_select does not take kernel {kernel.name}.")
    _Selection(body, routine, found).run()


class _Selection:
    def __init__(self, body: Body, routine: Routine, found: TopK) -> None:
        self.body = body
        self.found = found
        self.source = body.params[routine.inputs[0].name]
        self.values, self.indices = (body.params[x.name] for x in routine.outputs)
        kind = carrier(found.dtype)
        self.last = (body.registers(kind, 1, "last"), body.registers("int32", 1, "last_place"))
        self.best = (body.registers(kind, 1, "best"), body.registers("int32", 1, "best_place"))
        self.table = (body.shared(kind, body.threads, "values"), body.shared("int32", body.threads, "places"))

    def run(self) -> None:
        """One pass over the row for each result."""
        body, found = self.body, self.found
        self._clear(self.last)
        with body.loop("result", found.count) as result:
            self._clear(self.best)
            with body.loop("trip", -(-found.length // body.threads)) as trip:
                place = body.hold(trip * body.threads + body.thread, "place")
                with body.when(body.index(body.simplify(place < found.length))):
                    self._consider(place)
            self._join()
            winner = self._element(self.table, i32(0))
            self._put(self.last, i32(0), winner)
            with body.when(tirx.EQ(body.index(body.thread), i32(0))):
                target = body.index(body.simplify(body.task * found.count + result))
                body.store(self.values, target, to_storage(winner[0], found.dtype))
                body.store(self.indices, target, tirx.Cast("int64", winner[1]))
            body.sync()  # the table is written again

    def _consider(self, place: Expr) -> None:
        """Keeps the element at `place` if it stands behind the last result and before the best so far."""
        body, found = self.body, self.found
        address = body.index(body.simplify(body.task * found.length + place))
        value = body.bind(from_storage(self.source[address], found.dtype), "value")
        mine = (value, body.index(place, "int32"))
        behind = tirx.Or(self._is_none(self.last), self._before(self._element(self.last, i32(0)), mine))
        with body.when(tirx.And(behind, self._wins(mine, self._element(self.best, i32(0))))):
            self._put(self.best, i32(0), mine)

    def _join(self) -> None:
        """The best of all threads ends up first in the table."""
        body = self.body
        thread = body.index(body.thread)
        self._put(self.table, thread, self._element(self.best, i32(0)))
        width = body.threads // 2
        while width:
            body.sync()
            with body.when(tirx.LT(thread, i32(width))):
                theirs = self._element(self.table, tirx.Add(thread, i32(width)))
                there = tirx.NE(theirs[1], i32(NONE))
                with body.when(tirx.And(there, self._wins(theirs, self._element(self.table, thread)))):
                    self._put(self.table, thread, theirs)
            width //= 2
        body.sync()

    def _wins(self, mine: Element, held: Element) -> Prim:
        """Whether an element takes the place of what is held, which may be none."""
        return tirx.Or(tirx.EQ(held[1], i32(NONE)), self._before(mine, held))

    def _before(self, a: Element, b: Element) -> Prim:
        return before(a, b, self.found.dtype, self.found.largest)

    def _element(self, cells: tuple[Prim, Prim], at: Prim) -> Element:
        return self.body.bind(cells[0][at], "value"), self.body.bind(cells[1][at], "place")

    def _is_none(self, cells: tuple[Prim, Prim]) -> Prim:
        return tirx.EQ(cells[1][i32(0)], i32(NONE))

    def _put(self, cells: tuple[Prim, Prim], at: Prim, element: Element) -> None:
        for cell, part in zip(cells, element, strict=True):
            self.body.store(cell, at, part)

    def _clear(self, cells: tuple[Prim, Prim]) -> None:
        self._put(cells, i32(0), (literal(0, carrier(self.found.dtype)), i32(NONE)))


