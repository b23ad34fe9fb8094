"""`join_siblings` (bitwise): products of one operand with several constants as one product with all of them.

`x · A` and `x · B` become `x · [A B]`; their readers read columns of the result. Element-wise operators that follow,
the same for each but for their constants (a bias, an activation), are joined too. Products join only when nothing is
lost: an element-wise reader that was not joined could have been computed in its product's kernel, and then they stay
apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Const, Expr, Var, const, number_of, variables
from tilewright.ir.module import Constant
from tilewright.ir.ops import Access, Location, Op, Region, TensorOp, Value, bodies
from tilewright.views.layout import is_movement

_PIECE = 16
"""Bytes: where a product's columns begin in the joined result, memory is read in whole pieces."""


@attrs.frozen
class Joined:
    """The joined region.

    Args:
        region: the region.
        constants: those that it reads and the given one did not.
        names: of the operators that were joined, by the name of the one that computes them all.
    """

    region: Region
    constants: Mapping[str, Constant]
    names: Mapping[str, tuple[str, ...]]


@attrs.frozen
class _Link:
    """An operator of a chain, and the axis that its columns run along.

    Args:
        columns: for each read the dimension that the axis runs along, or None where it does not vary with it.
        out: the same for the result.
    """

    op: TensorOp
    axis: str
    columns: tuple[int | None, ...]
    out: int

    @property
    def extent(self) -> int:
        return int(self.op.writes[0].value.static_shape()[self.out])


def join_siblings(region: Region, constants: Mapping[str, Constant]) -> Joined:
    """The region with products of one operand joined.

    Args:
        constants: tensors by the names of their values.
    """
    users: dict[Value, list[TensorOp | None]] = {}
    for op in region.ops:
        for v in (x for x in op.inputs if x is not None):
            users.setdefault(v, []).append(op if isinstance(op, TensorOp) else None)
    held = {*region.results, *(v for op in region.ops for body in bodies(op) for v in body.captured)}
    for v in held:
        users.setdefault(v, []).append(None)
    classes: dict[object, list[list[_Link]]] = {}
    for op in region.ops:
        chain = _chain(op, users, constants) if isinstance(op, TensorOp) and _is_product(op, constants) else []
        if chain:
            classes.setdefault(tuple(_alike(x, constants) for x in chain), []).append(chain)
    found = [_joinable(x) for x in classes.values()]
    return _Joining(region, constants).run([x for x in found if len(x) > 1])


def _is_product(op: TensorOp, constants: Mapping[str, Constant]) -> bool:
    """Whether the operator sums products of a tensor and a constant."""
    if op.combiner is None or op.combiner.name != "sum" or not op.reduce or len(op.reads) != 2:
        return False
    body = op.body[0]
    return isinstance(body, Apply) and body.op == "mul" and sum(x.value.name in constants for x in op.reads) == 1


def _chain(
    op: TensorOp, users: Mapping[Value, list[TensorOp | None]], constants: Mapping[str, Constant]
) -> list[_Link]:
    """The product and the element-wise operators after it, or nothing where it cannot be joined."""
    own = set[str]().union(*(_varies(x) for x in op.reads if x.value.name in constants))
    own -= set[str]().union(*(_varies(x) for x in op.reads if x.value.name not in constants))
    axes = [x.name for x in op.spatial if x.name in own]
    link = _link(op, axes[0], constants) if len(axes) == 1 else None
    if link is None:
        return []
    chain = [link]
    while True:
        value = chain[-1].op.writes[0].value
        readers = users.get(value, [])
        following = _following(readers, chain[-1], constants)
        if following is None:
            break
        chain.append(following)
    if any(x is None or x.inplace == value.name or any(w.base == value for w in x.writes) for x in readers):
        return []
    return [] if any(x is not None and _could_follow(x, value) for x in readers) else chain


def _could_follow(reader: TensorOp, value: Value) -> bool:
    """Whether an operator may be computed point by point in the kernel that makes the value."""
    points = number_of(x.extent for x in reader.axes)
    return reader.combiner is None and not is_movement(reader) and points == value.num_elements()


def _following(
    readers: Sequence[TensorOp | None], before: _Link, constants: Mapping[str, Constant]
) -> _Link | None:
    """The lone reader where it is element-wise with constants."""
    if len(readers) != 1 or readers[0] is None:
        return None
    op, value = readers[0], before.op.writes[0].value
    reads = [x for x in op.reads if x.value == value]
    if op.combiner is not None or op.is_scatter or is_movement(op) or len(reads) != 1 or op.inplace:
        return None
    if any(x.value != value and x.value.name not in constants for x in op.reads):
        return None
    at = reads[0].index[before.out]
    return _link(op, at.name, constants, value) if isinstance(at, Var) else None


def _link(op: TensorOp, axis: str, constants: Mapping[str, Constant], value: Value | None = None) -> _Link | None:
    """The operator, when the axis runs along whole dimensions of its operands and its result."""
    if len(op.writes) != 1 or op.writes[0].guard is not None:
        return None
    columns: list[int | None] = []
    for read in op.reads:
        if axis not in _varies(read):
            columns.append(None)
            continue
        along = _along(read.index, read.value, axis)
        if along is None or read.guard is not None or not (read.value == value or read.value.name in constants):
            return None
        columns.append(along)
    out = _along(op.writes[0].index, op.writes[0].value, axis)
    named = any(axis in variables(x) for x in op.body)
    return None if out is None or named else _Link(op, axis, tuple(columns), out)


def _varies(read: Access) -> frozenset[str]:
    return variables(*read.index, read.guard)


def _along(index: Sequence[Expr], value: Value, axis: str) -> int | None:
    """The dimension that the axis alone runs along, if there is just one and it is static."""
    found = [i for i, at in enumerate(index) if axis in variables(at)]
    good = len(found) == 1 and index[found[0]] == Var(axis) and isinstance(value.shape[found[0]], Const)
    return found[0] if good else None


def _alike(link: _Link, constants: Mapping[str, Constant]) -> object:
    """What operators that can be joined have in common."""

    def cut(value: Value, dimension: int | None) -> object:
        return (value.dtype, *(x for i, x in enumerate(value.shape) if i != dimension))

    def read(access: Access, dimension: int | None) -> object:
        known: object = access.value if dimension is None else cut(access.value, dimension)
        if dimension is None and access.value.name in constants:
            known = constants[access.value.name]
        return known, access.index, access.guard, access.fill

    op = link.op
    axes = tuple((x.name, x.kind, None if x.name == link.axis else x.extent) for x in op.axes)
    reads = tuple(read(x, d) for x, d in zip(op.reads, link.columns, strict=True))
    (write,) = op.writes
    return axes, link.axis, reads, op.body, op.combiner, cut(write.value, link.out), write.index


def _joinable(chains: Sequence[list[_Link]]) -> list[list[_Link]]:
    """Those whose columns are whole pieces of memory, and at the end one that is not."""
    whole: list[list[_Link]] = []
    rest: list[list[_Link]] = []
    for chain in chains:
        sizes = [dtypes.size_of(x.op.writes[0].value.dtype) * x.extent for x in chain]
        (rest if any(x % _PIECE for x in sizes) else whole).append(chain)
    return [*whole, *rest[:1]]


class _Joining:
    """Builds the joined operators."""

    def __init__(self, region: Region, constants: Mapping[str, Constant]) -> None:
        self.region, self.constants = region, constants
        self.values = {v.name for op in region.ops for v in (*op.inputs, *op.outputs) if v is not None} | {*constants}
        self.ops = {x.name for x in region.ops}
        self.made: dict[str, Constant] = {}
        self.known: dict[tuple[str, ...], str] = {}

    def run(self, classes: Sequence[list[list[_Link]]]) -> Joined:
        """The region, its classes joined."""
        instead: dict[str, list[TensorOp]] = {}
        gone: set[str] = set()
        moved: dict[Value, tuple[Value, int, int]] = {}
        names: dict[str, tuple[str, ...]] = {}
        order = {op.name: i for i, op in enumerate(self.region.ops)}
        for chains in classes:
            ops = self._joined(chains)
            first = min((x[0].op.name for x in chains), key=order.__getitem__)
            instead[first] = ops
            gone |= {link.op.name for chain in chains for link in chain}
            names |= {op.name: tuple(x[i].op.name for x in chains) for i, op in enumerate(ops)}
            start = 0
            for chain in chains:
                moved[chain[-1].op.writes[0].value] = (ops[-1].writes[0].value, chain[-1].out, start)
                start += chain[-1].extent
        kept: list[Op] = []
        for op in self.region.ops:
            kept += instead.get(op.name, [])
            if op.name not in gone:
                kept.append(op)
        return Joined(attrs.evolve(self.region, ops=tuple(_reading(x, moved) for x in kept)), self.made, names)

    def _joined(self, chains: Sequence[list[_Link]]) -> list[TensorOp]:
        ops: list[TensorOp] = []
        before: tuple[Value, Value] | None = None
        for links in zip(*chains, strict=True):
            one = links[0]
            total = sum(x.extent for x in links)
            old = one.op.writes[0].value
            shape = tuple(const(total) if i == one.out else x for i, x in enumerate(old.shape))
            result = Value(_fresh(f"{old.name}_joined", self.values), old.dtype, shape)
            reads = []
            for slot, (read, dimension) in enumerate(zip(one.op.reads, one.columns, strict=True)):
                if before is not None and read.value == before[0]:
                    reads.append(attrs.evolve(read, value=before[1]))
                elif dimension is None:
                    reads.append(read)
                else:
                    name = self._constant([x.op.reads[slot].value.name for x in links], dimension)
                    reads.append(attrs.evolve(read, value=self.made[name].value(name)))
            axes = tuple(attrs.evolve(x, extent=const(total)) if x.name == one.axis else x for x in one.op.axes)
            nodes = ", ".join(x.op.loc.node for x in links)
            loc = Location(nodes, one.op.loc.op_type, tuple(y for x in links for y in x.op.loc.outputs))
            name = _fresh(f"{one.op.name}_joined", self.ops)
            write = attrs.evolve(one.op.writes[0], value=result)
            ops.append(attrs.evolve(one.op, name=name, axes=axes, reads=tuple(reads), writes=(write,), loc=loc))
            before = (old, result)
        return ops

    def _constant(self, names: list[str], dimension: int) -> str:
        """The name of the constants side by side."""
        key = (*names, str(dimension))
        if key not in self.known:
            name = self.known[key] = _fresh(f"{names[0]}_joined", self.values)
            self.made[name] = Constant(np.concatenate([self.constants[x].data for x in names], axis=dimension))
        return self.known[key]


def _fresh(name: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken; from now on it is."""
    found, number = name, 1
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _reading(op: Op, moved: Mapping[Value, tuple[Value, int, int]]) -> Op:
    """The operator, reading columns of joined results."""
    if not isinstance(op, TensorOp) or not any(x.value in moved for x in op.reads):
        return op

    def read(access: Access) -> Access:
        if access.value not in moved:
            return access
        value, dimension, start = moved[access.value]
        index = tuple(x + start if i == dimension and start else x for i, x in enumerate(access.index))
        return attrs.evolve(access, value=value, index=index)

    return attrs.evolve(op, reads=tuple(map(read, op.reads)))
