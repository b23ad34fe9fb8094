"""Layouts: values whose channels are stored innermost, because tensor cores read them in whole pieces of memory then.

A product of 16-bit operands reads eight neighbours along its reduction at once, or along its result. In a convolution
neighbours along the image are none where windows overlap, stride or reach over the edge, but channels are. Values that
operators link point by point (convolutions, pools, element-wise operators) change together or not at all, so that no
operator is left that transposes; the model's inputs and outputs stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from tilewright.ir.bounds import linear_terms
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, variables, walk
from tilewright.ir.ops import Access, Region, TensorOp, Value, bodies
from tilewright.planning.session import Session
from tilewright.rewrites.reorder import Order, reordered

_PIECE = 8
"""16-bit elements that are read at once."""
_LEAST = 0.25
"""Of the work of the products that read the values: less is not worth the other operators' strides."""
_HALVES = ("float16", "bfloat16")


def laid_out(region: Region, session: Session) -> Region:
    """The region with channels innermost where that makes more of its products' work read in whole pieces."""
    if not any(map(session.device.has, ("mma.sync", "mfma", "wmma"))):
        return region
    linked = _Linked(region)
    for op in region.ops:
        if isinstance(op, TensorOp):
            for access in _factors(op):
                if access.value in linked.free and access.value.name not in session.constants:
                    linked.ask(op, access)
    orders: dict[Value, Order] = {}
    for values, channel, gain in linked.chosen():
        moved = {v: _innermost(v.rank, channel) for v in values}
        orders.update(moved)
        why = f"{gain:.3g} more products read 16 bytes at once"
        subject = f"layout of {values[0].name}" + (f" and {len(values) - 1} more" if len(values) > 1 else "")
        session.decide("connect", subject, f"dimension {channel} innermost", ["as the model has it"], why=why)
    return reordered(region, orders) if orders else region


def _innermost(rank: int, channel: int) -> Order:
    return (*(i for i in range(rank) if i != channel), channel)


def _factors(op: TensorOp) -> list[Access]:
    """The reads that are 16-bit factors of a sum of products."""
    if op.combiner is None or op.combiner.name != "sum" or not op.reduce:
        return []
    body = op.body[0]
    if not isinstance(body, Apply) or body.op != "mul":
        return []
    loads = [x for arg in body.args for x in walk(arg) if isinstance(x, Load)]
    return [op.reads[x.slot] for x in loads if x.dtype in _HALVES]


@attrs.define
class _Linked:
    """Values that change their order together, and what that is worth to the products that read them."""

    region: Region
    free: set[Value] = attrs.field(init=False)
    _root: dict[Value, Value] = attrs.field(factory=dict, init=False)
    _asked: dict[Value, dict[int, float]] = attrs.field(factory=dict, init=False)
    _work: dict[Value, float] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        ops = self.region.ops
        made = {v for op in ops if isinstance(op, TensorOp) for v in op.outputs if v.is_static}
        held = {*self.region.results, *(v for op in ops for body in bodies(op) for v in body.captured)}
        held |= {v for op in ops if not isinstance(op, TensorOp) for v in op.inputs if v is not None}
        self.free = made - held

    def ask(self, op: TensorOp, access: Access) -> None:
        """Counts a product's wish for the dimension that it sums over, for or against."""
        work = math.prod(int(x.extent.value) for x in op.axes if isinstance(x.extent, Const))
        self._work[access.value] = self._work.get(access.value, 0.0) + work
        channel = _summed_dimension(op, access)
        if channel is None or channel == access.value.rank - 1:
            return
        now = _in_pieces(op, access, tuple(range(access.value.rank)))
        then = _in_pieces(op, access, _innermost(access.value.rank, channel))
        wishes = self._asked.setdefault(access.value, {})
        wishes[channel] = wishes.get(channel, 0.0) + work * (int(then) - int(now))

    def chosen(self) -> list[tuple[list[Value], int, float]]:
        """The values that change together, the dimension that becomes innermost, and the products that gain."""
        channels = {channel for wishes in self._asked.values() for channel in wishes}
        found = []
        taken: set[Value] = set()
        for channel in sorted(channels):
            for values in self._components(channel):
                gain = sum(self._asked.get(v, {}).get(channel, 0.0) for v in values)
                work = sum(self._work.get(v, 0.0) for v in values)
                if gain > _LEAST * work and not taken & set(values):
                    taken |= set(values)
                    found.append((values, channel, gain))
        return found

    def _components(self, channel: int) -> list[list[Value]]:
        """The free values that operators link in every dimension but `channel`, in order of their making."""
        self._root = {v: v for v in self.free if v.rank > channel}
        for op in self.region.ops:
            if isinstance(op, TensorOp):
                self._link(op, channel)
        found: dict[Value, list[Value]] = {}
        for op in self.region.ops:
            for v in op.outputs:
                if v in self._root:
                    found.setdefault(self._find(v), []).append(v)
        return list(found.values())

    def _link(self, op: TensorOp, channel: int) -> None:
        write = op.writes[0]
        if write.value not in self._root:
            return
        others = [(x.value, x.index) for x in op.reads] + [(x.value, x.index) for x in op.writes[1:]]
        for value, index in others:
            if value in self._root and value.rank == write.value.rank and _along(index, write.index, channel):
                self._root[self._find(value)] = self._find(write.value)

    def _find(self, value: Value) -> Value:
        while self._root[value] != value:
            value = self._root[value]
        return value


def _along(a: Sequence[Expr], b: Sequence[Expr], channel: int) -> bool:
    """Whether two indices walk along the same axes in every dimension but one."""
    pairs = [(variables(x), variables(y)) for i, (x, y) in enumerate(zip(a, b, strict=True)) if i != channel]
    return all(x & y or (not x and not y) for x, y in pairs)


def _summed_dimension(op: TensorOp, access: Access) -> int | None:
    """The dimension that the product sums over step by step and without a window."""
    names = {x.name for x in op.reduce}
    windows = variables(access.guard) if access.guard is not None else frozenset[str]()
    for i, at in enumerate(access.index):
        alone = [t.name for f, t in linear_terms(at) if f == 1 and isinstance(t, Var) and t.name in names]
        if alone and not variables(at) & windows and len(variables(at) & names) == 1:
            others = {f for f, t in linear_terms(at) if t != Var(alone[0])}
            if all(f % _PIECE == 0 for f in others) or len(variables(at)) == 1:
                return i
    return None


def _in_pieces(op: TensorOp, access: Access, order: Order) -> bool:
    """Whether eight neighbours in memory, from a multiple of eight on, are neighbours along the result, or the sum."""
    axes = {x.name: x for x in op.axes}
    shape = access.value.static_shape()
    windows = variables(access.guard) if access.guard is not None else frozenset[str]()
    run, kind = 1, ""
    for i in (x for x in reversed(order) if shape[x] > 1):
        terms = linear_terms(access.index[i])
        near = [t.name for f, t in terms if f == 1 and isinstance(t, Var)]
        if len(near) != 1 or variables(access.index[i]) & windows or axes[near[0]].kind != (kind or axes[near[0]].kind):
            return False
        axis = axes[near[0]]
        extent = int(axis.extent.value) if isinstance(axis.extent, Const) else 1
        run, kind = run * extent, axis.kind
        if run % _PIECE == 0:
            return all(f % _PIECE == 0 for f, t in terms if t != axis.var)
        if len(terms) > 1 or extent != shape[i]:
            return False
    return False
