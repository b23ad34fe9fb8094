"""`by_pieces` (bitwise): a value that is only read in equal pieces is made as that many values, at the same points.

The gates of a recurrent cell and the halves of a gated layer are columns of one product: `g = x · W` is read as
`g[j]`, `g[n + j]`, …. One reduction with a state for each piece makes them all at point `j`, where what reads them can
follow in the same kernel; `x` is then read once for all pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.bounds import affine
from tilewright.ir.expr import Const, Expr, Load, Var, const, loads, replace_loads, substitute, variables
from tilewright.ir.group import Group, KernelOp, Level
from tilewright.ir.ops import Access, Combiner, TensorOp, Value, Write

NAME = "by_pieces"
_MOST = 8
"""Pieces of a value: each is a state of a reduction, and states are registers."""


@attrs.frozen
class _Cut:
    """How values are cut: `count` pieces of `size` along one dimension of each."""

    size: int
    count: int
    dimensions: Mapping[Value, int]


def by_pieces(group: Group) -> Group | None:
    """The group with its values in pieces, and those that they are made from point by point, or None where none can be.

    Pieces have the level of the value that they were.
    """
    if not all(isinstance(op, TensorOp) for op in group.ops):
        return None
    found: Group | None = None
    while (cut := _first(found or group)) is not None:
        found = _cut_group(found or group, cut)
    return found


def _first(group: Group) -> _Cut | None:
    """The first cut that can be made in a group."""
    ops = [op for op in group.ops if isinstance(op, TensorOp)]
    cuts = (_cut(value, ops, group.outputs) for op in ops for value in op.outputs)
    return next((x for x in cuts if x is not None), None)


def _cut(value: Value, ops: Sequence[TensorOp], outputs: Sequence[Value]) -> _Cut | None:
    """How a value and its makers can be cut, as its readers read it."""
    reads = [(op, read) for op in ops for read in op.reads if read.value == value]
    if value in outputs or not reads or any(read.guard is not None for _, read in reads):
        return None
    for dimension, extent in enumerate(value.shape):
        pieces = [_piece(op, read, dimension) for op, read in reads]
        sizes = {x[0] for x in pieces if x is not None}
        if None in pieces or len(sizes) != 1 or not isinstance(extent, Const):
            continue
        (size,) = sizes
        whole = int(extent.value)
        if not 2 * size <= whole <= _MOST * size or whole % size:
            continue
        if any(x is None or x[1] % size for x in pieces):
            continue
        dimensions = _makers(value, dimension, ops, outputs)
        if dimensions is not None:
            return _Cut(size, whole // size, dimensions)
    return None


def _piece(op: TensorOp, read: Access, dimension: int) -> tuple[int, int] | None:
    """Size and beginning of the piece of a dimension that an operator reads along one of its axes."""
    terms = affine(read.index[dimension], frozenset(x.name for x in op.axes))
    if terms is None:
        return None
    names = [x for x, factor in terms.items() if x is not None and factor]
    axes = {x.name: x for x in op.axes}
    if len(names) != 1 or names[0] is None or terms[names[0]] != 1:
        return None
    extent = axes[names[0]].extent
    return (int(extent.value), terms.get(None, 0)) if isinstance(extent, Const) else None


def _makers(
    value: Value, dimension: int, ops: Sequence[TensorOp], outputs: Sequence[Value]
) -> dict[Value, int] | None:
    """The value and those made in the group that it needs at the same place of the dimension, each with the dimension
    that is cut; None where one of them is read in another way too."""
    made = {v: op for op in ops for v in op.outputs}
    found = {value: dimension}
    todo = [value]
    while todo:
        current = todo.pop()
        maker = made.get(current)
        axis = None if maker is None else _axis(maker, found[current])
        if maker is None or axis is None:
            return None
        for read in maker.reads:
            if read.value not in made or axis not in variables(*read.index, read.guard):
                continue
            along = [i for i, x in enumerate(read.index) if axis in variables(x)]
            if read.guard is not None or len(along) != 1 or read.index[along[0]] != Var(axis):
                return None
            if read.value in outputs or found.setdefault(read.value, along[0]) != along[0]:
                return None
            todo.append(read.value)
    cut = {made[v].name for v in found}
    others = any(x in found and x != value for op in ops if op.name not in cut for x in op.inputs)
    return None if others or any(value in made[v].inputs for v in found) else found


def _axis(op: TensorOp, dimension: int) -> str | None:
    """The spatial axis that runs along a dimension of the operator's only result, if the operator can be cut there."""
    if len(op.writes) != 1 or len(op.body) != 1 or op.is_scatter or op.inplace or op.writes[0].guard is not None:
        return None
    at = op.writes[0].index[dimension]
    if not isinstance(at, Var) or sum(at.name in variables(x) for x in op.writes[0].index) != 1:
        return None
    known = all(max(loads(*x.index, x.guard), default=-1) < slot for slot, x in enumerate(op.reads))
    return at.name if known and at.name in {x.name for x in op.spatial} else None


def _cut_group(group: Group, cut: _Cut) -> Group:
    ops: list[KernelOp] = []
    for op in group.ops:
        assert isinstance(op, TensorOp)
        ops.append(_cut_op(op, cut) if set(op.outputs) & set(cut.dimensions) else _reading(op, cut))
    values = {v.name: v for v in cut.dimensions}
    levels: list[tuple[str, Level]] = []
    for name, level in group.levels:
        pieces = _pieces(values[name], cut) if name in values else ()
        levels += ((piece.name, level) for piece in pieces) if pieces else [(name, level)]
    trail = group.trail if NAME in group.trail else (*group.trail, NAME)
    return attrs.evolve(group, ops=tuple(ops), levels=tuple(levels), trail=trail)


def _pieces(value: Value, cut: _Cut) -> tuple[Value, ...]:
    dimension = cut.dimensions[value]
    shape = tuple(const(cut.size) if i == dimension else x for i, x in enumerate(value.shape))
    return tuple(attrs.evolve(value, name=f"{value.name}.{i}", shape=shape) for i in range(cut.count))


def _cut_op(op: TensorOp, cut: _Cut) -> TensorOp:
    """The operator at the points of the first piece, with a state for every piece."""
    (write,) = op.writes
    axis = _axis(op, cut.dimensions[write.value])
    assert axis is not None
    slots: dict[Access, int] = {}
    body: list[Expr] = []
    for number in range(cut.count):
        place: dict[str, Expr] = {axis: Var(axis) + number * cut.size} if number else {}
        mapping: dict[int, Expr] = {}
        for slot, read in enumerate(op.reads):
            moved = _moved(read, place, number, cut, mapping)
            mapping[slot] = Load(slots.setdefault(moved, len(slots)), moved.value.dtype)
        body.append(replace_loads(substitute(op.body[0], place), mapping))
    writes = tuple(Write(piece, write.index) for piece in _pieces(write.value, cut))
    axes = tuple(attrs.evolve(x, extent=const(cut.size)) if x.name == axis else x for x in op.axes)
    combiner = None if op.combiner is None else _times(op.combiner, cut.count)
    return attrs.evolve(op, axes=axes, reads=tuple(slots), body=tuple(body), writes=writes, combiner=combiner)


def _moved(
    read: Access, place: Mapping[str, Expr], number: int, cut: _Cut, slots: Mapping[int, Expr]
) -> Access:
    """What piece `number` reads in the place of `read`; `slots` are its reads in front of this one."""
    if read.value in cut.dimensions:
        return attrs.evolve(read, value=_pieces(read.value, cut)[number])

    def there(expr: Expr) -> Expr:
        return replace_loads(substitute(expr, place), slots)

    guard = None if read.guard is None else there(read.guard)
    return attrs.evolve(read, index=tuple(map(there, read.index)), guard=guard)


def _times(combiner: Combiner, count: int) -> Combiner:
    """The combiner of that many states beside each other."""
    names = [(f"a{i}", f"b{i}") for i in range(count)]
    (dtype,) = combiner.dtypes
    merged = (substitute(combiner.combine[0], {"a0": Var(a, dtype), "b0": Var(b, dtype)}) for a, b in names)
    return attrs.evolve(
        combiner, name=f"{combiner.name}_{count}", identity=combiner.identity * count, combine=tuple(merged)
    )


def _reading(op: TensorOp, cut: _Cut) -> TensorOp:
    """The operator, reading pieces."""

    def read(access: Access) -> Access:
        if access.value not in cut.dimensions:
            return access
        dimension = cut.dimensions[access.value]
        piece = _piece(op, access, dimension)
        assert piece is not None
        (axis,) = (x.var for x in op.axes if x.name in variables(access.index[dimension]))
        index = tuple(axis if i == dimension else x for i, x in enumerate(access.index))
        return attrs.evolve(access, value=_pieces(access.value, cut)[piece[1] // cut.size], index=index)

    return attrs.evolve(op, reads=tuple(map(read, op.reads)))
