"""A kernel's specification with one flat address per access, and axes merged where memory does not tell them apart."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import attrs

from tilewright.ir.bounds import Bounds, linear_terms, simplify
from tilewright.ir.expr import (
    Apply,
    Const,
    Expr,
    Extent,
    Var,
    all_of,
    as_expr,
    as_extent,
    cast,
    const,
    loads,
    maximum,
    minimum,
    number_of,
    substitute,
    variables,
)
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Access, Axis, Combiner, ScanOp, Value, Write
from tilewright.ir.polynomial import canonical, polynomial, term_of
from tilewright.ir.verify.ranges import Ranges
from tilewright.views.kernel import KernelSpec, Store
from tilewright.views.layout import address
from tilewright.views.maps import axis_bounds


@attrs.frozen
class FlatAccess:
    """Element number `address` of `value` where `guard` holds, otherwise `fill`."""

    value: Value
    address: Expr
    guard: Expr | None = None
    fill: Const | None = None


@attrs.frozen
class FlatStore:
    """Element number `address` of `value` becomes `expr` where `guard` holds."""

    value: Value
    address: Expr
    expr: Expr
    guard: Expr | None = None
    update: Combiner | None = None
    base: Value | None = None


@attrs.frozen
class FlatSpec:
    """`KernelSpec` over flat addresses.

    Args:
        origin: the axes of the kernel's specification that each axis fuses, outermost first.
        symbols: those that extents and expressions use.
    """

    axes: tuple[Axis, ...]
    reads: tuple[FlatAccess, ...]
    body_reads: int
    body: tuple[Expr, ...]
    combiner: Combiner | None
    stores: tuple[FlatStore, ...]
    origin: Mapping[str, tuple[Axis, ...]] = attrs.field(factory=dict, eq=False)
    symbols: tuple[Symbol, ...] = ()

    @property
    def spatial(self) -> tuple[Axis, ...]:
        return tuple(x for x in self.axes if x.kind == "spatial")

    @property
    def reduce(self) -> tuple[Axis, ...]:
        return tuple(x for x in self.axes if x.kind == "reduce")

    @property
    def scatters(self) -> bool:
        """Whether a store merges with what stands there or leaves other elements as they are."""
        return any(x.base is not None or x.update is not None for x in self.stores)

    @property
    def symbol_bounds(self) -> Bounds:
        return {x.name: x.interval for x in self.symbols}

    def bounds(self) -> Bounds:
        """The interval of every axis and symbol."""
        return axis_bounds(self.axes, self.symbol_bounds)

    def addresses(self) -> tuple[Expr, ...]:
        """Every address, reads first."""
        return (*(x.address for x in self.reads), *(x.address for x in self.stores))

    def pointwise(self) -> tuple[Expr, ...]:
        """The expressions other than addresses: guards, bodies, stored values."""
        guards = (*(x.guard for x in self.reads), *(x.guard for x in self.stores))
        return (*(x for x in guards if x is not None), *self.body, *(x.expr for x in self.stores))


def flatten(spec: KernelSpec) -> FlatSpec:
    """The specification with row-major addresses; axes of one point disappear."""
    bounds = spec.bounds()
    gone: dict[str, Expr] = {x.name: const(0) for x in spec.axes if x.extent == const(1)}

    def clean(expr: Expr) -> Expr:
        return simplify(substitute(expr, gone), bounds)

    def maybe(expr: Expr | None) -> Expr | None:
        return None if expr is None else clean(expr)

    def place(access: Access) -> Expr:
        doubtful = _doubtful(access.index, access.value, spec, access.guard)
        dims = _dims(access.index, access.value)
        index = [minimum(maximum(at, 0), extent - 1) if at in doubtful else at for at, extent in dims]
        return join_digits(clean(address(index, access.value.shape)))

    def stored(write: Write) -> Expr | None:
        doubtful = _doubtful(write.index, write.value, spec, write.guard)
        dims = [(at, extent) for at, extent in _dims(write.index, write.value) if at in doubtful]
        return all_of(write.guard, *((as_expr(0) <= at) & (at < extent) for at, extent in dims))

    reads = tuple(FlatAccess(x.value, place(x), maybe(x.guard), x.fill) for x in spec.reads)
    stores = tuple(
        FlatStore(
            s.write.value,
            join_digits(clean(address(s.write.index, s.write.value.shape))),
            clean(s.expr),
            maybe(stored(s.write)),
            s.write.update,
            s.write.base,
        )
        for s in spec.stores
    )
    axes = tuple(x for x in spec.axes if x.name not in gone)
    body = tuple(clean(x) for x in spec.body)
    origin = {x.name: (x,) for x in axes}
    return FlatSpec(axes, reads, spec.body_reads, body, spec.combiner, stores, origin, spec.symbols)


def join_digits(expr: Expr) -> Expr:
    """A sum in which the digits of a number, each times its weight, are the number again.

    Reading through a reshape leaves such sums: `16 * (x // 16) + x % 16` is `x`.
    """
    terms = list(linear_terms(expr))
    joined = next(_joins(terms), None)
    if joined is None:
        return expr
    while joined is not None:
        terms = joined
        joined = next(_joins(terms), None)
    total: Expr = const(0)
    for factor, term in terms:
        total = total + term * factor
    return total


def _joins(terms: Sequence[tuple[int, Expr]]) -> Iterator[list[tuple[int, Expr]]]:
    """The terms with two neighbouring digits of one number as one."""
    for i, (weight, high) in enumerate(terms):
        for k, (below, low) in enumerate(terms):
            if i == k or not isinstance(low, Apply) or low.op != "floormod" or not isinstance(low.args[1], Const):
                continue
            number, radix = low.args[0], int(low.args[1].value)
            above = simplify(number // radix, {})
            rest = [x for n, x in enumerate(terms) if n not in (i, k)]
            if weight != below * radix:
                continue
            if high == above:
                yield [*rest, (below, number)]
            elif isinstance(high, Apply) and high.op == "floormod" and high.args[0] == above:
                yield [*rest, (below, number % (high.args[1] * radix))]


def _dims(index: Sequence[Expr], value: Value) -> Iterable[tuple[Expr, Expr]]:
    return zip(index, value.shape, strict=True)


def _doubtful(index: Sequence[Expr], value: Value, spec: KernelSpec, guard: Expr | None) -> set[Expr]:
    """The indices that data decide and that nothing keeps in their dimension.

    ONNX calls it an error when the data are wrong. A kernel cannot report one, but it must not touch other memory: it
    reads at the nearest end of the dimension, and leaves out what it would store outside.
    """
    decided = [(at, extent) for at, extent in _dims(index, value) if loads(at)]
    ranges = Ranges(spec.axes, spec.symbol_bounds, guard)
    return {at for at, extent in decided if not ranges.inside(at, extent)}


def flatten_scan(op: ScanOp) -> FlatSpec:
    """A recurrence as a specification: its bodies are the initial states, then the steps in terms of `p0, p1, …`.

    The scan axis is the only reduce axis (none where it has one step); the stores are the results.
    """
    axes = (*op.axes, attrs.evolve(op.scan, kind="reduce"))
    stores = tuple(Store(w, cast(x, w.value.dtype)) for w, x in zip(op.writes, op.results, strict=True))
    return flatten(KernelSpec(op.name, axes, op.reads, len(op.reads), (*op.init, *op.step), None, stores))


def coefficient(expr: Expr, name: str) -> int | None:
    """Stride of the variable in the sum `expr`; None when it appears in any other way than as a linear term."""
    stride = 0
    for factor, term in linear_terms(expr):
        if isinstance(term, Var) and term.name == name:
            stride += factor
        elif name in variables(term):
            return None
    return stride


def stride_of(expr: Expr, name: str, symbols: Container[str]) -> Expr | None:
    """The factor of the variable in the sum `expr`: a literal, or a product with symbols.

    None when it appears in any other way.
    """
    stride: Expr = const(0)
    for factor, term in linear_terms(expr):
        if name not in variables(term):
            continue
        ((factors, _),) = polynomial(term).items()
        others = [x for x in factors if x != Var(name)]
        if len(others) != len(factors) - 1 or not all(isinstance(x, Var) and x.name in symbols for x in others):
            return None
        stride = stride + term_of(tuple(others)) * factor
    return canonical(stride)


def merge_axes(spec: FlatSpec) -> FlatSpec:
    """Fuses neighbouring axes that every address steps through as if they were one."""
    while True:
        for outer, inner in zip(spec.axes, spec.axes[1:], strict=False):
            if outer.kind == inner.kind and mergeable(spec, outer, inner):
                spec = _merge(spec, outer, inner)
                break
        else:
            return spec


def mergeable(spec: FlatSpec, outer: Axis, inner: Axis) -> bool:
    """Whether `outer` steps by exactly the extent of `inner` in every address and nothing else uses either."""
    if {outer.name, inner.name} & variables(*spec.pointwise()):
        return False
    for expr in spec.addresses():
        far, near = (stride_of(expr, x.name, spec.symbol_bounds) for x in (outer, inner))
        if far is None or near is None or far != canonical(near * inner.extent):
            return False
    return True


def _merge(spec: FlatSpec, outer: Axis, inner: Axis) -> FlatSpec:
    fused = Axis(f"{outer.name}.{inner.name}", canonical(outer.extent * inner.extent), inner.kind)
    changed: Mapping[str, Expr] = {outer.name: const(0), inner.name: fused.var}
    axes = tuple(fused if x is inner else x for x in spec.axes if x is not outer)
    bounds = axis_bounds(axes, spec.symbol_bounds)
    origin = {name: parts for name, parts in spec.origin.items() if name not in (outer.name, inner.name)}
    return attrs.evolve(
        spec,
        axes=axes,
        origin=origin | {fused.name: spec.origin[outer.name] + spec.origin[inner.name]},
        reads=tuple(attrs.evolve(x, address=simplify(substitute(x.address, changed), bounds)) for x in spec.reads),
        stores=tuple(attrs.evolve(x, address=simplify(substitute(x.address, changed), bounds)) for x in spec.stores),
    )


def split_number(number: Expr, extents: Sequence[Extent]) -> list[Expr]:
    """The digits of `number` in the mixed radix of `extents`, outermost first; the first digit is not reduced.

    Where an extent can be zero there is no number; the division by it must be harmless all the same.
    """
    digits: list[Expr] = []
    for position, extent in reversed(list(enumerate(extents))):
        radix = extent if isinstance(extent, int) else maximum(extent, 1)
        digits.append(number % as_expr(radix) if position else number)
        number = number // as_expr(radix)
    return digits[::-1]


def fuse(spec: FlatSpec, names: tuple[str, ...], fused: str) -> FlatSpec:
    """The specification over one axis in place of `names` (outermost first).

    An address that steps through them as if they were one stays a plain sum; elsewhere the axes become digits.
    """
    chosen = [x for x in spec.axes if x.name in names]
    chosen.sort(key=lambda x: names.index(x.name))
    sizes = [as_extent(x.extent) for x in chosen]
    axis = Axis(fused, canonical(number_of(sizes)))
    axes = (*(x for x in spec.axes if x.name not in names), axis)
    bounds = axis_bounds(axes, spec.symbol_bounds)
    digits = dict(zip(names, split_number(axis.var, sizes), strict=True))

    def point(expr: Expr) -> Expr:
        return simplify(substitute(expr, digits), bounds)

    def place(expr: Expr) -> Expr:
        strides = [stride_of(expr, x.name, spec.symbol_bounds) for x in chosen]
        inner = strides[-1] if strides else const(0)
        if inner is None or strides != [canonical(inner * number_of(sizes[i + 1 :])) for i in range(len(sizes))]:
            return point(expr)
        at: dict[str, Expr] = {x.name: const(0) for x in chosen}
        if chosen:
            at[chosen[-1].name] = axis.var
        return simplify(substitute(expr, at), bounds)

    def guard(expr: Expr | None) -> Expr | None:
        return None if expr is None else point(expr)

    reads = tuple(attrs.evolve(x, address=place(x.address), guard=guard(x.guard)) for x in spec.reads)
    stores = tuple(
        attrs.evolve(x, address=place(x.address), guard=guard(x.guard), expr=point(x.expr)) for x in spec.stores
    )
    return attrs.evolve(spec, axes=axes, reads=reads, stores=stores, body=tuple(point(x) for x in spec.body))
