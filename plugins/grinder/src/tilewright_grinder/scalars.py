"""`fold_scalars` (bitwise): what follows from numbers known at compile time, and scalar arithmetic put into indices.

A read of a known scalar becomes a literal. A scalar that an integer expression of one other scalar gives (a trip's
number plus one) is computed where it is read, so an index needs no operator of its own. Indices are simplified by the
range of the number of a trip. A branch on a known condition is the side that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import Interval, simplify
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, const, loads, map_expr, replace_loads, walk
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import Access, If, Loop, Region, TensorOp, Value
from tilewright.rewrites.rename import with_values
from tilewright.views.maps import axis_bounds
from tilewright_grinder.editor import Editor, Replacing
from tilewright_grinder.speculation import named_loads

_LARGEST = 12
"""Nodes of an expression that is computed again where it is read."""


@attrs.frozen
class _Scalar:
    """What a scalar is: an expression of `Load(0)`, one element of `source`; without a source a literal."""

    expr: Expr
    source: Value | None = None


def fold_scalars(module: Module, editor: Editor) -> Module:
    """The module with everything carried out that follows from known scalars."""
    found = {}
    for name, data in editor.constants.items():
        if data.data.size == 1 and (dtypes.is_integer(data.dtype) or data.dtype == "bool"):
            found[name] = _Scalar(const(data.data.reshape(()).item(), data.dtype))
    functions = {name: Function(name, _region(f.body, dict(found), editor)) for name, f in module.functions.items()}
    return attrs.evolve(module, functions=functions, constants=editor.constants)


def _region(region: Region, outer: Mapping[str, _Scalar], editor: Editor) -> Region:
    known = dict(outer)
    made = Replacing()
    for old in region.ops:
        op = made.current(old)
        if isinstance(op, TensorOp):
            op = _folded(op, known, editor)
            scalar = _scalar(op)
            if scalar is not None:
                known[op.writes[0].value.name] = scalar
        elif isinstance(op, If):
            condition = _literal(op.condition, known)
            if condition is not None:
                side = _region(op.then if condition.value else op.orelse, known, editor)
                made.replace(old, side.ops, side.results)
                editor.note(op.name, "removed", "its condition is known")
                continue
            op = with_values(op, _same, lambda inner: _region(inner, known, editor))
        elif isinstance(op, Loop):
            op = _loop(op, known, editor)
        made.keep(op)
    return made.region(region)


def _same(value: Value) -> Value:
    return value


def _loop(op: Loop, known: Mapping[str, _Scalar], editor: Editor) -> Loop:
    trip = None if op.trip is None else _literal(op.trip, known)
    if trip is not None:
        op = attrs.evolve(op, trip=None, count=const(max(int(trip.value), 0)))
        editor.know_trips(op)
    first = None if op.condition is None else _literal(op.condition, known)
    if first is not None and first.value:
        op = attrs.evolve(op, condition=None)
    # A trip is made only while the condition holds.
    going = op.body.params[1]
    body = _region(op.body, {**known, going.name: _Scalar(const(True, "bool"))}, editor)
    last = _literal(body.results[0], known)
    if last is None:
        made = next((x for x in body.ops if body.results[0] in x.outputs), None)
        scalar = _scalar(made) if isinstance(made, TensorOp) else None
        last = scalar.expr if scalar is not None and isinstance(scalar.expr, Const) else None
    if last is not None and last.value:
        body = attrs.evolve(body, results=(going, *body.results[1:]))
    return attrs.evolve(op, body=body)


def _literal(value: Value, known: Mapping[str, _Scalar]) -> Const | None:
    found = known.get(value.name)
    return found.expr if found is not None and isinstance(found.expr, Const) else None


def _is_single(value: Value) -> bool:
    return all(x == const(1) for x in value.shape)


def _scalar(op: TensorOp) -> _Scalar | None:
    """What the operator's result is, when it is integer arithmetic on one scalar at most."""
    if op.axes or len(op.writes) != 1 or op.is_scatter or op.writes[0].guard is not None or len(op.reads) > 1:
        return None
    body, value = op.body[0], op.writes[0].value
    if body.dtype != value.dtype or not _is_single(value) or len(walk(body)) > _LARGEST:
        return None
    if not all(dtypes.is_integer(x.dtype) or x.dtype == "bool" for x in walk(body)):
        return None
    if not op.reads:
        return _Scalar(body) if isinstance(body, Const) else None
    read = op.reads[0]
    if read.guard is not None or not _is_single(read.value):
        return None
    return _Scalar(body, read.value)


def _folded(op: TensorOp, known: Mapping[str, _Scalar], editor: Editor) -> TensorOp:
    """The operator with what is known about the scalars that it reads."""
    if not any(x.value.name in known or x.value.name in editor.ranges for x in op.reads):
        return op
    reads: list[Access] = []
    slots: dict[int, Expr] = {}
    places: dict[Access, int] = {}

    def place(read: Access) -> int:
        if read not in places:
            places[read] = len(reads)
            reads.append(read)
        return places[read]

    def renamed(expr: Expr) -> Expr:
        return replace_loads(expr, slots)

    for slot, old in enumerate(op.reads):
        index = tuple(map(renamed, old.index))
        guard = None if old.guard is None else renamed(old.guard)
        if isinstance(guard, Const):
            if not guard.value:
                assert old.fill is not None
                slots[slot] = old.fill
                continue
            guard = None
        read = Access(old.value, index, guard, old.fill if guard is not None else None)
        scalar = known.get(old.value.name) if guard is None else None
        if scalar is None:
            slots[slot] = Load(place(read), old.value.dtype)
        elif scalar.source is None:
            slots[slot] = scalar.expr
        else:
            source = Access(scalar.source, (const(0),) * scalar.source.rank)
            slots[slot] = replace_loads(scalar.expr, {0: Load(place(source), scalar.source.dtype)})
    writes = tuple(
        attrs.evolve(x, index=tuple(map(renamed, x.index)), guard=None if x.guard is None else renamed(x.guard))
        for x in op.writes
    )
    made = attrs.evolve(op, reads=tuple(reads), body=tuple(map(renamed, op.body)), writes=writes)
    return without_unused_reads(_simplified(made, editor))


def _simplified(op: TensorOp, editor: Editor) -> TensorOp:
    """The operator with its indices and guards simplified by what numbers of trips can be."""
    ranges = {f"%{n}": editor.ranges[x.value.name] for n, x in enumerate(op.reads) if x.value.name in editor.ranges}
    if not ranges:
        return op
    bounds: dict[str, Interval] = {**axis_bounds(op.axes, editor.builder.symbols), **ranges}
    slots = {f"%{n}": Load(n, x.value.dtype) for n, x in enumerate(op.reads)}

    def simple(expr: Expr) -> Expr:
        if not loads(expr):
            return expr
        found = simplify(named_loads(expr), bounds)
        return map_expr(found, lambda x: slots.get(x.name) if isinstance(x, Var) else None)

    def read(x: Access) -> Access:
        guard = None if x.guard is None else simple(x.guard)
        if isinstance(guard, Const) and guard.value:
            guard = None
        return Access(x.value, tuple(map(simple, x.index)), guard, x.fill if guard is not None else None)

    body = tuple(simple(x) if _is_whole(x) else x for x in op.body)
    return attrs.evolve(op, reads=tuple(map(read, op.reads)), body=body)


def _is_whole(expr: Expr) -> bool:
    """Whether an expression is arithmetic on integers only."""
    return all(dtypes.is_integer(x.dtype) or x.dtype == "bool" for x in walk(expr) if not isinstance(x, Apply))


def without_unused_reads(op: TensorOp) -> TensorOp:
    """The operator without the reads that nothing in it uses."""
    needed = set(loads(*op.body, *(y for x in op.writes for y in (*x.index, x.guard))))
    for slot in range(len(op.reads) - 1, -1, -1):
        if slot in needed:
            needed |= loads(*op.reads[slot].index, op.reads[slot].guard)
    if len(needed) == len(op.reads):
        return op
    kept = sorted(needed)
    slots: dict[int, Expr] = {old: Load(new, op.reads[old].value.dtype) for new, old in enumerate(kept)}

    def renamed(expr: Expr | None) -> Expr | None:
        return None if expr is None else replace_loads(expr, slots)

    def every(exprs: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(replace_loads(x, slots) for x in exprs)

    reads = tuple(
        attrs.evolve(x, index=every(x.index), guard=renamed(x.guard)) for x in (op.reads[old] for old in kept)
    )
    writes = tuple(attrs.evolve(x, index=every(x.index), guard=renamed(x.guard)) for x in op.writes)
    inplace = op.inplace if any(x.value.name == op.inplace for x in reads) else ""
    return attrs.evolve(op, reads=reads, body=every(op.body), writes=writes, inplace=inplace)

