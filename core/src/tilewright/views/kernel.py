"""KernelSpec: a group of the default kind, normalised to one loop nest with an epilogue.

A group whose operators are injective producers, one main operator and element-wise consumers is the same thing as one
iteration domain with guarded reads, a reduction and a few stores. Recipes match on this view and emitters
generate code from it, so neither needs to know how operators were grouped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, simplify
from tilewright.ir.expr import (
    Apply,
    Expr,
    Load,
    Var,
    all_of,
    cast,
    const,
    loads,
    replace_loads,
    select,
    substitute,
    walk,
)
from tilewright.ir.group import Group
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Access, Axis, Combiner, Location, TensorOp, Value, Write
from tilewright.views.maps import axis_bounds, invert
from tilewright.views.symbols import group_symbols


@attrs.frozen(cache_hash=True)
class Store:
    """`write.value[write.index] = expr` under `write.guard`.

    `expr` uses the spatial axes, the states `s0, s1, …` after the reduction, and `Load`s of the specification's reads.
    """

    write: Write
    expr: Expr


@attrs.frozen(cache_hash=True)
class KernelSpec:
    """`for spatial: s = reduce(body over reads); stores`.

    Args:
        axes: spatial axes, then reduce axes.
        reads: slots of all loads; those of the body come first (`body_reads` of them), then those of the stores.
        body: one expression per state.
        combiner: None when there are no reduce axes; then the states are the body's values.
        stores: what is written at each spatial point, in order.
        constants: names of the values that are known at compile time.
        symbols: those that extents, indices or values use.
        locations: the ONNX nodes that went in.
    """

    name: str
    axes: tuple[Axis, ...]
    reads: tuple[Access, ...]
    body_reads: int
    body: tuple[Expr, ...]
    combiner: Combiner | None
    stores: tuple[Store, ...]
    constants: frozenset[str] = frozenset()
    symbols: tuple[Symbol, ...] = ()
    locations: tuple[Location, ...] = attrs.field(default=(), eq=False)

    @property
    def spatial(self) -> tuple[Axis, ...]:
        return tuple(x for x in self.axes if x.kind == "spatial")

    @property
    def reduce(self) -> tuple[Axis, ...]:
        return tuple(x for x in self.axes if x.kind == "reduce")

    @property
    def inputs(self) -> tuple[Value, ...]:
        bases = (s.write.base for s in self.stores if s.write.base is not None)
        return tuple(dict.fromkeys([*(x.value for x in self.reads), *bases]))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(x.write.value for x in self.stores)

    def state(self, number: int) -> Var:
        """The variable that stands for state `number` in the stores."""
        return Var(f"s{number}", self.body[number].dtype)

    @property
    def symbol_bounds(self) -> Bounds:
        return {x.name: x.interval for x in self.symbols}

    def bounds(self) -> Bounds:
        """The interval of every axis and symbol."""
        return axis_bounds(self.axes, self.symbol_bounds)


def spec_of(op: TensorOp, symbols: tuple[Symbol, ...] = ()) -> KernelSpec:
    """The specification of one operator alone.

    Args:
        symbols: those of the module; without them extents that use them count as unbounded.
    """
    states = [Var(f"s{i}", x.dtype) for i, x in enumerate(op.body)]
    stores = tuple(Store(write, cast(states[i], write.value.dtype)) for i, write in enumerate(op.writes))
    return KernelSpec(
        op.name,
        op.axes,
        op.reads,
        len(op.reads),
        op.body,
        op.combiner,
        stores,
        symbols=symbols,
        locations=(op.loc,),
    )


def inline_producer(spec: KernelSpec, slot: int, producer: TensorOp) -> KernelSpec | None:
    """`spec` with the read `slot` computed from the producer's reads instead, or None when the map is not exact.

    The producer must be element-wise or a data movement (no combiner, no scatter).
    """
    if producer.combiner is not None or producer.is_scatter:
        return None
    access = spec.reads[slot]
    written = [i for i, w in enumerate(producer.writes) if w.value == access.value]
    if not written or producer.writes[written[0]].guard is not None:
        return None
    write = producer.writes[written[0]]
    bounds = {**axis_bounds(producer.axes, spec.symbol_bounds), **spec.bounds()}
    at = invert(producer.spatial, write.index, write.value.shape, access.index, bounds)
    if at is None:
        return None
    moved: list[Access] = []
    new_slots = {i: Load(slot + i, x.value.dtype) for i, x in enumerate(producer.reads)}

    def carried(expr: Expr) -> Expr:
        # Loads first: the values of the axes have loads of their own, which keep their slots.
        return simplify(substitute(replace_loads(expr, new_slots), at), bounds)

    for read in producer.reads:
        guard = all_of(access.guard, None if read.guard is None else carried(read.guard))
        fill = read.fill if read.guard is not None else None
        if guard is not None and fill is None:
            fill = const(0, read.value.dtype)
        moved.append(Access(read.value, tuple(carried(x) for x in read.index), guard, fill))
    value = cast(carried(producer.body[written[0]]), write.value.dtype)
    plain_move = value == Load(slot, access.value.dtype) and len(moved) == 1
    if access.guard is not None:
        fill = access.fill if access.fill is not None else const(0, access.value.dtype)
        if plain_move and producer.reads[0].guard is None:
            moved[0] = attrs.evolve(moved[0], fill=fill)
        elif not (plain_move and moved[0].fill == fill):
            value = select(access.guard, value, fill)
    return _replace_read(spec, slot, tuple(moved), value, producer.loc)


def _replace_read(spec: KernelSpec, slot: int, moved: tuple[Access, ...], value: Expr, loc: Location) -> KernelSpec:
    """Puts `moved` before `slot`, replaces the loads of `slot` by `value`, and drops what nothing reads.

    A later read whose index loads `slot` then still loads earlier ones only.
    """
    shift = {i: Load(i + len(moved), x.value.dtype) for i, x in enumerate(spec.reads) if i >= slot}

    def renumber(expr: Expr) -> Expr:
        return replace_loads(expr, {**shift, slot: value})

    def renumber_access(access: Access) -> Access:
        guard = None if access.guard is None else renumber(access.guard)
        return Access(access.value, tuple(renumber(x) for x in access.index), guard, access.fill)

    reads = [*spec.reads[:slot], *moved, *(renumber_access(x) for x in spec.reads[slot:])]
    grown = attrs.evolve(
        spec,
        reads=tuple(reads),
        body_reads=spec.body_reads + (len(moved) if slot < spec.body_reads else 0),
        body=tuple(renumber(x) for x in spec.body),
        stores=tuple(_map_store(s, renumber) for s in spec.stores),
        locations=(loc, *spec.locations),
    )
    return _compact(grown)


def _parts(access: Access) -> tuple[Expr, ...]:
    return access.index if access.guard is None else (*access.index, access.guard)


def _map_store(store: Store, change: Callable[[Expr], Expr]) -> Store:
    write = store.write
    guard = None if write.guard is None else change(write.guard)
    return Store(attrs.evolve(write, index=tuple(change(x) for x in write.index), guard=guard), change(store.expr))


def _compact(spec: KernelSpec) -> KernelSpec:
    """Merges equal reads and drops unused ones, keeping the order."""
    used: set[int] = set()
    for expr in (*spec.body, *(s.expr for s in spec.stores)):
        used |= loads(expr)
    for store in spec.stores:
        used |= loads(*store.write.index, store.write.guard)
    for slot in range(len(spec.reads) - 1, -1, -1):
        if slot in used:
            used |= loads(*spec.reads[slot].index, spec.reads[slot].guard)
    kept: dict[Access, int] = {}
    renumbering: dict[int, Expr] = {}
    body_reads = 0
    for slot, access in enumerate(spec.reads):
        if slot not in used:
            continue
        guard = None if access.guard is None else replace_loads(access.guard, renumbering)
        mine = Access(access.value, tuple(replace_loads(x, renumbering) for x in access.index), guard, access.fill)
        if mine not in kept:
            kept[mine] = len(kept)
            body_reads += slot < spec.body_reads
        renumbering[slot] = Load(kept[mine], access.value.dtype)

    def renumber(expr: Expr) -> Expr:
        return replace_loads(expr, renumbering)

    return attrs.evolve(
        spec,
        reads=tuple(kept),
        body_reads=body_reads,
        body=tuple(renumber(x) for x in spec.body),
        stores=tuple(_map_store(s, renumber) for s in spec.stores),
    )


def append_consumer(spec: KernelSpec, consumer: TensorOp, keep: frozenset[str]) -> KernelSpec | None:
    """`spec` followed by an element-wise consumer of its stores, or None when their points do not correspond.

    Args:
        consumer: an operator without combiner that reads at least one value the specification stores.
        keep: names of stored values that are still read elsewhere; the others are no longer written.
    """
    if consumer.combiner is not None or consumer.is_scatter:
        return None
    stored = {s.write.value: s for s in spec.stores}
    bounds: Bounds = {**axis_bounds(consumer.axes, spec.symbol_bounds), **spec.bounds()}
    at: dict[str, Expr] | None = None
    replaced: dict[int, Expr] = {}
    for slot, access in enumerate(consumer.reads):
        store = stored.get(access.value)
        if store is None:
            continue
        if access.guard is not None or store.write.guard is not None or store.write.base is not None:
            return None
        here = invert(consumer.spatial, access.index, access.value.shape, store.write.index, bounds)
        if here is None or (at is not None and here != at):
            return None
        at = here
        replaced[slot] = store.expr
    if at is None:
        return None
    point = at
    first = len(spec.reads)
    others = [i for i in range(len(consumer.reads)) if i not in replaced]
    slots: dict[int, Expr] = {old: Load(first + new, consumer.reads[old].value.dtype) for new, old in enumerate(others)}
    slots.update(replaced)

    def carried(expr: Expr) -> Expr:
        return simplify(replace_loads(substitute(expr, point), slots), bounds)

    added = tuple(
        Access(
            r.value,
            tuple(carried(x) for x in r.index),
            None if r.guard is None else carried(r.guard),
            r.fill,
        )
        for r in (consumer.reads[i] for i in others)
    )
    # Where a read touches memory may depend on axes and earlier reads, not on what the kernel computes.
    states = {spec.state(n) for n in range(len(spec.body))}
    if any(x in states for access in added for part in _parts(access) for x in walk(part)):
        return None
    new_stores = tuple(
        Store(
            attrs.evolve(
                w,
                index=tuple(carried(x) for x in w.index),
                guard=None if w.guard is None else carried(w.guard),
            ),
            cast(carried(consumer.body[i]), w.value.dtype),
        )
        for i, w in enumerate(consumer.writes)
    )
    stores = tuple(s for s in spec.stores if s.write.value.name in keep) + new_stores
    grown = attrs.evolve(spec, reads=spec.reads + added, stores=stores, locations=(*spec.locations, consumer.loc))
    return _compact(grown)


def is_elementwise(op: object) -> bool:
    """Whether the operator can join a kernel as producer or consumer: no reduction, no scatter."""
    return isinstance(op, TensorOp) and op.combiner is None and not op.is_scatter


def normalise(
    group: Group, constants: Container[str] = (), symbols: tuple[Symbol, ...] = ()
) -> KernelSpec | None:
    """The specification of a group of TensorOps, or None when it is not of the default kind (one main operator, and
    nothing passed on through shared memory).

    Producers before the main operator are inlined into its reads; consumers after it become stores.

    Args:
        constants: names of the values that are known at compile time.
        symbols: those of the module, or of the group.
    """
    if not group.ops or not all(isinstance(op, TensorOp) for op in group.ops):
        return None
    if any(level == "shared" for _, level in group.levels):
        return None
    ops = [op for op in group.ops if isinstance(op, TensorOp)]
    outside = frozenset(v.name for v in group.outputs)
    starts = [i for i, op in enumerate(ops) if not is_elementwise(op)]
    if len(starts) > 1:
        return None
    if not starts:
        # Element-wise only: the first operator with an output outside carries the nest, those after it follow. Where
        # they do not follow from there (two outputs of one inner value), the first operator does.
        starts = [next(i for i, op in enumerate(ops) if any(v.name in outside for v in op.outputs)), 0]
    for start in dict.fromkeys(starts):
        spec = _around(ops, start, outside, group_symbols(group, symbols))
        if spec is not None:
            known = frozenset(v.name for v in spec.inputs if v.name in constants)
            return attrs.evolve(spec, name=group.name, constants=known)
    return None


def _around(
    ops: Sequence[TensorOp], position: int, outside: frozenset[str], symbols: tuple[Symbol, ...]
) -> KernelSpec | None:
    """The specification of operators of which the one at `position` carries the nest, or None.

    Args:
        outside: names of the values to store.
    """
    main = ops[position]
    spec: KernelSpec | None = spec_of(main, symbols)
    pending = list(range(position + 1, len(ops)))
    for i in pending:
        assert spec is not None
        later = {v.name for j in pending if j > i for v in ops[j].inputs}
        stored = {v.name for v in spec.outputs}
        if not any(v.name in stored for v in ops[i].inputs):
            continue  # a producer of a later consumer; inlined below
        spec = append_consumer(spec, ops[i], outside | later)
        if spec is None:
            return None
    assert spec is not None
    producers = {v: op for op in ops for v in op.outputs if v not in spec.outputs}
    progress = True
    while progress:
        progress = False
        for slot, access in enumerate(spec.reads):
            producer = producers.get(access.value)
            if producer is not None and producer is not main:
                inlined = inline_producer(spec, slot, producer)
                if inlined is None:
                    return None
                spec, progress = inlined, True
                break
    return spec if {v.name for v in spec.outputs} == outside else None


def flops_per_point(spec: KernelSpec) -> int:
    """Arithmetic operations of the body at one point of the domain; a multiply-add counts two."""
    count = sum(
        1
        for expr in spec.body
        for node in walk(expr)
        if isinstance(node, Apply) and node.op not in ("cast", "select") and not dtypes.is_integer(node.dtype)
    )
    return count + (len(spec.body) if spec.combiner is not None else 0)
