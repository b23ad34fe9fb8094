"""The builder that legalisation rules use: tensor operators in a form close to tensor expressions.

    b.compute("float32", (n, m), lambda i, j: x[j, i] * 2.0)
    b.reduce("float32", (n,), (m,), "sum", lambda i, r: x[i, r])

Indexing a `Tensor` inside the body records a read and gives the expression that stands for it. Dimensions of extent 1
get no axis: their index is the literal 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.errors import InternalError, UnsupportedError
from tilewright.frontend.names import Names
from tilewright.frontend.numbers import Numbers, contents, fixing, settle, shown
from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, Interval, bounds_of, simplify
from tilewright.ir.expr import Apply, Const, Expr, Extent, Load, Scalar, Var, as_expr, as_extent, cast, const
from tilewright.ir.module import Constant
from tilewright.ir.ops import (
    Access,
    Axis,
    Combiner,
    Location,
    Loop,
    Op,
    Region,
    Routine,
    ScanOp,
    TensorOp,
    Value,
    Write,
    combiner,
    value,
)

Index = Expr | int
Body = Callable[..., Any]
Shape = Sequence[Extent]


class Tensor:
    """A value that bodies can read: `x[i, j]`, `x.guarded(condition, (i, j), fill)`."""

    __slots__ = ("_builder", "data", "value")

    def __init__(self, builder: Builder, value: Value, data: npt.NDArray[Any] | None = None) -> None:
        self._builder = builder
        self.value = value
        self.data = data

    @property
    def dtype(self) -> str:
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents as integers. Raises SymbolicError when one is symbolic."""
        return self.value.static_shape()

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The extents, each an integer or an expression over symbols."""
        return self.value.extents

    @property
    def rank(self) -> int:
        return self.value.rank

    @property
    def size(self) -> int:
        """Number of elements. Raises SymbolicError when it is symbolic."""
        return math.prod(self.shape)

    @property
    def numbers(self) -> Numbers | None:
        """The contents of a small integer tensor that depends on symbols alone."""
        return self._builder.numbers.get(self.value.name)

    def fewest(self, extent: Extent) -> int:
        """The smallest value of an extent."""
        return bounds_of(as_expr(extent), self._builder.symbols).low

    def scalar(self) -> Scalar | None:
        """The value of a constant with one element."""
        if self.data is None or self.data.size != 1:
            return None
        found: Scalar = np.asarray(self.data).reshape(()).astype(dtypes.to_numpy(self.dtype)).item()
        return found

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Expr:
        """The element at `index`; a literal when the tensor is a constant with one element."""
        if self.data is not None and self.data.size == 1:
            known = self.scalar()
            if known is not None:
                return const(known, self.dtype)
        return self._builder.read(self.value, index if isinstance(index, tuple) else (index,), None, None)

    def guarded(self, guard: Expr | None, index: tuple[Index, ...], fill: Scalar = 0) -> Expr:
        """The element at `index` where `guard` holds, otherwise `fill`; the element is not touched then."""
        if isinstance(guard, Const) and not guard.value:
            return const(fill, self.dtype)
        if guard is None or isinstance(guard, Const):
            return self[index]
        return self._builder.read(self.value, index, guard, const(fill, self.dtype))

    def at(self, index: Sequence[Index]) -> Expr:
        """The element at the point `index` of a domain that this tensor broadcasts to.

        Raises:
            UnsupportedError: whether it broadcasts there depends on the value of a symbol.
        """
        mine = index[len(index) - self.rank :]
        for extent, i in zip(self.extents, mine, strict=True):
            self._builder.expect(extent, i)
        return self[tuple(const(0) if extent == 1 else i for extent, i in zip(self.extents, mine, strict=True))]


@attrs.define
class _Recording:
    """The reads of the operator under construction, the extents of its axes, and the bounds of axes and symbols."""

    extents: Mapping[str, Expr]
    bounds: Mapping[str, Interval]
    slots: dict[Access, int] = attrs.field(factory=dict)


class Builder:
    """Appends operators to a region.

    Args:
        names: where names of values come from.
        constants: the module's constants; the builder adds those that rules compute.
        symbols: intervals of the module's symbols.

    Attributes:
        numbers: contents of the integer tensors that depend on symbols alone, by name.
    """

    def __init__(self, names: Names, constants: dict[str, Constant], symbols: Bounds | None = None) -> None:
        self.names = names
        self.constants = constants
        self.symbols: Bounds = symbols or {}
        self.numbers: dict[str, Numbers] = {}
        self.ops: list[Op] = []
        self.loc = Location()
        self.hint = "v"
        self._recording: _Recording | None = None

    # Tensors.

    def tensor(self, of: Value) -> Tensor:
        """The handle of a value."""
        known = self.constants.get(of.name)
        return Tensor(self, of, None if known is None else known.data)

    def constant(self, array: npt.NDArray[Any], hint: str = "") -> Tensor:
        """A new constant of the module."""
        name = self.names.fresh(f"{self.hint}_{hint or 'const'}")
        self.constants[name] = Constant(array)
        return self.tensor(self.constants[name].value(name))

    def append(self, op: Op) -> None:
        """Adds a finished operator."""
        self.ops.append(op)
        found = contents(op) if isinstance(op, TensorOp) else None
        if found is not None:
            self.numbers[op.name] = found

    def settled(self, extent: Extent) -> Extent:
        """An extent in the one way to write it, so that equal ones are equal."""
        return settle(extent, self.symbols) if isinstance(extent, Expr) else extent

    def same(self, *extents: Extent) -> Extent:
        """The one extent that all are.

        Raises:
            UnsupportedError: they differ for some values of the symbols.
        """
        first = self.settled(extents[0])
        for other in map(self.settled, extents[1:]):
            if other != first and (isinstance(first, Expr) or isinstance(other, Expr)):
                raise self.unfit(first, other)
        return first

    def unfit(self, found: Extent, needed: Extent) -> UnsupportedError:
        """An error that names the node and two extents that are equal for some sizes only."""
        return UnsupportedError(
            f"{self.loc} needs the extent {shown(needed)} where it finds {shown(found)}; "
            "that does not fit for every size.",
            f"Fix the dimension when compiling, for example {fixing(found, needed)}, or narrow its range.",
        )

    def expect(self, extent: Extent, at: Index) -> None:
        """Refuses to broadcast a dimension of `extent` along an axis of which it is not known to have the extent."""
        axis = at.name if isinstance(at, Var) and self._recording is not None else ""
        needed = None if self._recording is None else self._recording.extents.get(axis)
        if needed is not None and extent != 1:
            self.same(extent, as_extent(needed))

    # Operators.

    def compute(self, dtype: str, shape: Shape, body: Body, name: str = "") -> Tensor:
        """`out[i…] = body(i…)`, rounded to `dtype`. `name` says what the value is, for printed IR."""
        return self.domain([(dtype, shape)], shape, (), body, name=name)[0]

    def computes(self, outputs: Sequence[str], shape: Shape, body: Body, name: str = "") -> tuple[Tensor, ...]:
        """Several values of one shape from one body that returns a tuple."""
        return self.domain([(x, shape) for x in outputs], shape, (), body, name=name)

    def reduce(
        self, dtype: str, spatial: Shape, reduce: Shape, how: str | Combiner, body: Body, name: str = ""
    ) -> Tensor:
        """`out[i…] = combine over r… of body(i…, r…)`.

        A named combiner works in the dtype of the body: cast there to `dtypes.accumulator` where sums need it.
        """
        return self.domain([(dtype, spatial)], spatial, reduce, body, how=how, name=name)[0]

    def domain(
        self,
        outputs: Sequence[tuple[str, Shape]],
        spatial: Shape,
        reduce: Shape,
        body: Body,
        *,
        how: str | Combiner | None = None,
        index: Callable[..., Sequence[Index]] | None = None,
        guard: Callable[..., Expr | None] | None = None,
        base: Tensor | None = None,
        update: Combiner | None = None,
        ordered: bool = False,
        name: str = "",
    ) -> tuple[Tensor, ...]:
        """The general operator: any iteration domain, any map from its spatial points to elements of the outputs.

        Args:
            outputs: dtype and shape of each output; output k stores state k.
            spatial: extents of the spatial axes.
            reduce: extents of the reduce axes.
            body: called with one index per axis; returns an expression, or a tuple of one per state.
            how: combiner over the reduce axes.
            index: called with one index per spatial axis; gives the element written (default: the point itself).
            guard: called likewise; where it is false nothing is written.
            base, update, ordered: see `Write`.
        """
        axes, spatial_index = self._axes("i", spatial, "spatial")
        reduce_axes, reduce_index = self._axes("r", reduce, "reduce")
        with self._record([*axes, *reduce_axes]) as recording:
            made = body(*spatial_index, *reduce_index)
            states = tuple(as_expr(x, outputs[0][0]) for x in (made if isinstance(made, tuple) else (made,)))
            target = tuple(spatial_index) if index is None else tuple(as_expr(x) for x in index(*spatial_index))
            condition = None if guard is None else guard(*spatial_index)
            target = tuple(simplify(x, recording.bounds) for x in target)
            if condition is not None:
                condition = simplify(condition, recording.bounds)
                condition = None if isinstance(condition, Const) and condition.value else condition
        values = [
            value(self.names.fresh(f"{self.hint}_{name}" if name else self.hint), dtype, list(shape))
            for dtype, shape in outputs
        ]
        merge = None
        if reduce_axes:
            if how is None:
                raise InternalError(f"The reduction for {self.loc} has no combiner.")
            merge = combiner(how, states[0].dtype) if isinstance(how, str) else how  # type: ignore[arg-type]
            if merge.dtypes != tuple(x.dtype for x in states):
                raise InternalError(f"The body for {self.loc} gives {[x.dtype for x in states]}, not {merge.dtypes}.")
        self.ops.append(
            TensorOp(
                values[0].name,
                (*axes, *reduce_axes),
                tuple(recording.slots),
                states,
                tuple(
                    Write(v, target, condition, update, None if base is None else base.value, ordered) for v in values
                ),
                merge,
                loc=self.loc,
            )
        )
        return tuple(Tensor(self, x) for x in values)

    def scan(
        self,
        dtype: str,
        shape: Shape,
        axis: int,
        init: Expr,
        step: Callable[..., Expr],
        result: Callable[[Expr, Expr], Expr],
        target: Callable[..., Sequence[Index]],
        name: str = "",
    ) -> Tensor:
        """A recurrence with one state along dimension `axis` of `shape`.

        Args:
            init: the state before the first step.
            step: called with the earlier state and one index per dimension; gives the later state.
            result: called with the earlier and the later state; gives what is stored.
            target: called with one index per dimension; the element stored.
        """
        spatial = [x for d, x in enumerate(shape) if d != axis]
        axes, points = self._axes("i", spatial, "spatial")
        along = Axis("t", as_expr(shape[axis]))
        index: list[Expr] = [*points[:axis], along.var, *points[axis:]]

        before, after = Var("p0", init.dtype), Var("s0", init.dtype)
        with self._record([*axes, along]) as recording:
            stepped = step(before, *index)
            where = tuple(simplify(as_expr(x), recording.bounds) for x in target(*index))
        out = value(self.names.fresh(f"{self.hint}_{name}" if name else self.hint), dtype, list(shape))
        self.ops.append(
            ScanOp(
                out.name,
                tuple(axes),
                along,
                tuple(recording.slots),
                (init,),
                (stepped,),
                (result(before, after),),
                (Write(out, where),),
                self.loc,
            )
        )
        return Tensor(self, out)

    def loop(
        self,
        count: int,
        states: Sequence[Tensor],
        body: Callable[[Tensor, Sequence[Tensor]], tuple[Sequence[Tensor], Sequence[Tensor]]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`count` trips that carry `states`.

        Args:
            body: called once with the number of the trip (an int64 scalar) and the states before it; builds the
                operators of a trip and gives the states after it, none of them a state before it, and rows.

        Returns:
            the states after the last trip, and for each row a tensor with one more dimension in front, the trip.
        """
        number = value(self.names.fresh(f"{self.hint}_step"), "int64", [])
        going = value(self.names.fresh(f"{self.hint}_going"), "bool", [])
        params = [attrs.evolve(x.value, name=self.names.fresh(f"{self.hint}_state")) for x in states]
        outside, self.ops = self.ops, []
        after, rows = body(self.tensor(number), [self.tensor(x) for x in params])
        made, self.ops = tuple(self.ops), outside
        ends = [attrs.evolve(x, name=self.names.fresh(f"{self.hint}_end")) for x in params]
        stacks = [value(self.names.fresh(f"{self.hint}_rows"), x.dtype, [count, *x.extents]) for x in rows]
        results = (going, *(x.value for x in (*after, *rows)))
        region = Region((number, going, *params), made, results)
        carried = tuple(x.value for x in states)
        outputs = (*ends, *stacks)
        self.ops.append(Loop(outputs[0].name, None, None, carried, outputs, region, const(count), self.loc))
        return [self.tensor(x) for x in ends], [self.tensor(x) for x in stacks]

    def routine(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[tuple[str, Shape]],
        attributes: Mapping[str, Any],
        parallel: int = 0,
    ) -> tuple[Tensor, ...]:
        """A computation that is not welded; `kind` names its meaning."""
        values = [value(self.names.fresh(self.hint), dtype, list(shape)) for dtype, shape in outputs]
        self.ops.append(
            Routine(
                values[0].name,
                kind,
                tuple(x.value for x in inputs),
                tuple(values),
                attributes,
                parallel,
                loc=self.loc,
            )
        )
        return tuple(Tensor(self, x) for x in values)

    # Recording.

    def read(self, of: Value, index: Sequence[Index], guard: Expr | None, fill: Const | None) -> Expr:
        """The load of an element in the body under construction; equal reads share a slot."""
        if self._recording is None:
            raise InternalError(f"{of.name} is read outside of an operator's body.")
        if len(index) != of.rank:
            raise InternalError(f"{of.name} of rank {of.rank} is read with {len(index)} indices ({self.loc}).")
        bounds = self._recording.bounds
        where = tuple(simplify(as_expr(x), bounds) for x in index)
        for extent, at in zip(of.extents, where, strict=True):
            axis = self._recording.extents.get(at.name) if isinstance(at, Var) and guard is None else None
            symbolic = axis is not None and not (isinstance(axis, Const) and isinstance(extent, int))
            if axis is not None and symbolic and not self._within(axis, as_expr(extent)):
                raise self.unfit(extent, as_extent(axis))
        if guard is not None:
            guard = simplify(guard, bounds)
            if isinstance(guard, Const):
                if not guard.value:
                    return fill if fill is not None else const(0, of.dtype)
                guard = fill = None
        slots = self._recording.slots
        return Load(slots.setdefault(Access(of, where, guard, fill), len(slots)), of.dtype)

    def _within(self, count: Expr, extent: Expr) -> bool:
        """Whether a number of positions is at most an extent for every value of the symbols."""
        room = as_expr(self.settled(extent - count))
        if bounds_of(room, self.symbols).low >= 0:
            return True
        return isinstance(count, Apply) and count.op == "min" and any(self._within(x, extent) for x in count.args)

    def simplified(self, expr: Expr) -> Expr:
        """`expr` with what the bounds of the axes decide carried out; inside a body only."""
        return expr if self._recording is None else simplify(expr, self._recording.bounds)

    @contextmanager
    def _record(self, axes: Sequence[Axis]) -> Iterator[_Recording]:
        if self._recording is not None:
            raise InternalError(f"An operator is built inside the body of another one ({self.loc}).")
        extents = {x.name: x.extent for x in axes}
        ranges = {k: Interval(0, max(bounds_of(x, self.symbols).high - 1, 0)) for k, x in extents.items()}
        self._recording = _Recording(extents, {**self.symbols, **ranges})
        try:
            yield self._recording
        finally:
            self._recording = None

    @staticmethod
    def _axes(prefix: str, extents: Shape, kind: Any) -> tuple[list[Axis], list[Expr]]:
        axes: list[Axis] = []
        index: list[Expr] = []
        for extent in extents:
            if extent == 1:
                index.append(const(0))
            else:
                axes.append(Axis(f"{prefix}{len(axes)}", as_expr(extent), kind))
                index.append(axes[-1].var)
        return axes, index


def wide(x: Expr) -> Expr:
    """`x` in the dtype that sums over it are carried in."""
    return cast(x, dtypes.accumulator(x.dtype))


def as_float(count: Expr, dtype: str) -> Expr:
    """A number of elements, for divisions by it."""
    return const(float(count.value), dtype) if isinstance(count, Const) else cast(count, dtype)


def within(index: Index, extent: Extent) -> Expr:
    """`0 <= index < extent`; the builder drops the half that always holds."""
    point = as_expr(index)
    return (point >= 0) & (point < extent)
