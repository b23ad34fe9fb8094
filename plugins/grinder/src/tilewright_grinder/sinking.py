"""Row by row: operators between two loops computed for the one row that a trip of the second loop reads.

Between stacked recurrences stands what makes the input of one layer from the rows of the layer below: views, biases, a
product of all rows with a weight. Where row `t` of such a result needs row `t` of the collected rows only, a trip can
compute it from the row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import attrs

from tilewright.ir.expr import Expr, Load, Var, map_expr, replace_loads, variables
from tilewright.ir.ops import Access, Op, Region, TensorOp, Value
from tilewright_grinder.editor import Editor
from tilewright_grinder.scalars import without_unused_reads

Place = tuple[str, int]
"""A value and the dimension along which its rows lie."""


@attrs.define
class Sinking:
    """What a trip reads of values that depend on rows of the loop before.

    Args:
        rows: the row that stands for each output that the loop before collects, by the output's name.
        dependent: names of everything that depends on outputs of that loop.
        makers: operators between the loops by the names of what they make.
        number: of the trip, as the second loop's body has it.

    Attributes:
        ops: what computes the rows, in order.
    """

    rows: Mapping[str, Value]
    dependent: set[str]
    makers: Mapping[str, Op]
    number: Value
    editor: Editor
    ops: list[Op] = attrs.field(factory=list)
    _made: dict[Place, Value] = attrs.field(factory=dict)

    def body(self, body: Region) -> Region | None:
        """The body reading rows, behind what computes them; None when something in it needs more than its row."""
        ops: list[Op] = []
        for op in body.ops:
            if any(x is not None and x.name in self.dependent for x in op.inputs):
                sunk = self._reading(op)
                if sunk is None:
                    return None
                op = sunk
            ops.append(op)
        if any(x.name in self.dependent for x in body.results):
            return None
        return Region(body.params, (*self.ops, *ops), body.results)

    def _reading(self, op: Op) -> Op | None:
        """An operator of the body, with rows in the place of what it reads at the number of the trip."""
        if not isinstance(op, TensorOp) or any(x.base is not None and x.base.name in self.dependent for x in op.writes):
            return None
        number = next((n for n, x in enumerate(op.reads) if x.value == self.number), -1)
        here = Load(number, "int64")
        reads = [self._row_read(x, here) for x in op.reads]
        found = tuple(x for x in reads if x is not None)
        return without_unused_reads(attrs.evolve(op, reads=found)) if len(found) == len(reads) else None

    def _row_read(self, read: Access, here: Expr) -> Access | None:
        """The read of a row, where the old one is at position `here` of a dimension."""
        if read.value.name not in self.dependent:
            return read
        for dimension, at in enumerate(read.index):
            row = self.row(read.value, dimension) if at == here else None
            if row is not None:
                index = tuple(x for n, x in enumerate(read.index) if n != dimension)
                return attrs.evolve(read, value=row, index=index)
        return None

    def row(self, value: Value, dimension: int) -> Value | None:
        """Row `number` of a value, when it can be computed from rows."""
        if value.name in self.rows:
            return self.rows[value.name] if dimension == 0 else None
        place = (value.name, dimension)
        if place not in self._made:
            op = self.makers.get(value.name)
            made = self._one_row(op, dimension) if isinstance(op, TensorOp) else None
            if made is None:
                return None
            self.ops.append(made)
            self._made[place] = made.writes[0].value
        return self._made[place]

    def _one_row(self, op: TensorOp, dimension: int) -> TensorOp | None:
        """The operator for one position of a dimension of its result."""
        write = op.writes[0]
        if len(op.writes) != 1 or op.is_scatter or write.guard is not None:
            return None
        axis = write.index[dimension]
        others = [x for n, x in enumerate(write.index) if n != dimension]
        if not isinstance(axis, Var) or axis.name in variables(*others):
            return None
        extent = next(x.extent for x in op.axes if x.name == axis.name)
        if write.value.shape[dimension] != extent:
            return None
        # The number of the trip is read first; the other reads move one slot up.
        slots: dict[int, Expr] = {n: Load(n + 1, x.value.dtype) for n, x in enumerate(op.reads)}
        at = partial(_at_number, axis=axis.name, slots=slots)
        reads = [Access(self.number, ())]
        for old in op.reads:
            read = self._row_read(old, axis)
            if read is None:
                return None
            index = tuple(map(at, read.index))
            reads.append(attrs.evolve(read, index=index, guard=None if read.guard is None else at(read.guard)))
        value = attrs.evolve(
            self.editor.fresh(write.value),
            shape=tuple(x for n, x in enumerate(write.value.shape) if n != dimension),
        )
        made = attrs.evolve(
            op,
            name=value.name,
            axes=tuple(x for x in op.axes if x.name != axis.name),
            reads=tuple(reads),
            body=tuple(map(at, op.body)),
            writes=(attrs.evolve(write, value=value, index=tuple(map(at, others))),),
            inplace="",
        )
        return without_unused_reads(made)


def _at_number(expr: Expr, axis: str, slots: Mapping[int, Expr]) -> Expr:
    """The expression with the number of the trip, which slot 0 reads, in the place of an axis."""
    moved = replace_loads(expr, slots)
    return map_expr(moved, lambda x: Load(0, "int64") if isinstance(x, Var) and x.name == axis else None)
