"""Operators of a region: tensor operators, ordered scans, routines, control flow and, before legalisation, ONNX nodes.

A `TensorOp` is the unit that all four techniques work on: an iteration domain, guarded reads, one body expression per
state, an optional combiner over the reduce axes, and writes that share the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Const, Expr, Extent, Var, apply, as_expr, as_extent, const, number_of, static


@attrs.frozen(cache_hash=True)
class Value:
    """A tensor in a region: a name unique in its function, a dtype and a shape of integer expressions."""

    name: str
    dtype: str
    shape: tuple[Expr, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers. Raises SymbolicError when an extent holds a symbol."""
        return tuple(static(x, f"extent of {self.name}") for x in self.shape)

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The shape, with an integer for every literal extent."""
        return tuple(map(as_extent, self.shape))

    @property
    def is_static(self) -> bool:
        """Whether every extent is a literal."""
        return all(isinstance(x, Const) for x in self.shape)

    def num_elements(self) -> Expr:
        return number_of(self.shape)


def value(name: str, dtype: str, shape: tuple[Expr | int, ...] | list[Expr | int] | list[int]) -> Value:
    """A `Value` whose extents may be given as Python integers."""
    if dtype not in dtypes.STORED:
        raise TypeError(f"{dtype!r} is not an element type of the IR")
    return Value(name, dtype, tuple(as_expr(x) for x in shape))


@attrs.frozen(cache_hash=True)
class Location:
    """Where an operator comes from: ONNX node name, operator type and its output names. Ignored by structural keys."""

    node: str = ""
    op_type: str = ""
    outputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.op_type or 'op'} {self.node!r}" if self.node else self.op_type


AxisKind = Literal["spatial", "reduce"]


@attrs.frozen(cache_hash=True)
class Axis:
    """One loop of an iteration domain, `0 <= name < extent`."""

    name: str
    extent: Expr
    kind: AxisKind = "spatial"

    @property
    def var(self) -> Var:
        return Var(self.name)


@attrs.frozen(cache_hash=True)
class Access:
    """One guarded read, `value[index]`, or `fill` where the guard is false.

    The element is never touched when the guard is false, so the index may then be out of range. Index and guard may
    use the axes and `Load`s of earlier slots (gathers).
    """

    value: Value
    index: tuple[Expr, ...]
    guard: Expr | None = None
    fill: Const | None = None


@attrs.frozen(cache_hash=True)
class Combiner:
    """How the states of a reduction are merged, possibly a tuple of them (argmax, Welford).

    `identity[i]` starts state i; `combine[i]` gives its merged value in terms of `a0, a1, …` (earlier) and `b0, b1, …`
    (later). The identity is two-sided.
    """

    name: str
    identity: tuple[Const, ...]
    combine: tuple[Expr, ...]
    associative: bool = True
    commutative: bool = True

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(x.dtype for x in self.identity)

    def left(self, state: int) -> Var:
        return Var(f"a{state}", self.identity[state].dtype)

    def right(self, state: int) -> Var:
        return Var(f"b{state}", self.identity[state].dtype)


def combiner(name: Literal["sum", "prod", "max", "min", "and", "or"], dtype: str) -> Combiner:
    """One of the standard one-state combiners over `dtype`."""
    op = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "and": "and", "or": "or"}[name]
    low, high = (
        (float("-inf"), float("inf")) if dtypes.is_float(dtype) else dtypes.integer_range(dtype)
    )
    start = {"sum": 0, "prod": 1, "max": low, "min": high, "and": True, "or": False}[name]
    return Combiner(name, (const(start, dtype),), (apply(op, Var("a0", dtype), Var("b0", dtype)),))


@attrs.frozen(cache_hash=True)
class Write:
    """`value[index] = state`, rounded to the value's dtype, where the guard holds.

    Args:
        update: for scatters: how a written element merges with what stands there (None: it replaces it).
        base: operand whose elements stand where nothing is written; None when the writes cover the value.
        ordered: duplicates are written in the order of the domain (the last one wins), not in any order.
    """

    value: Value
    index: tuple[Expr, ...]
    guard: Expr | None = None
    update: Combiner | None = None
    base: Value | None = None
    ordered: bool = False


@attrs.frozen(cache_hash=True)
class TensorOp:
    """`for axes: states = combine(body(reads)); writes`.

    Args:
        name: unique in the region.
        axes: the domain, spatial axes first, then reduce axes, outermost first.
        reads: guarded accesses, slots of the body's `Load`s.
        body: one expression per state; without a combiner, per write.
        combiner: merges the body over the reduce axes; None when there are none.
        writes: write i stores state i; states beyond the writes are dropped.
        inplace: name of a read value that the first write may overwrite, or "".
        loc: the ONNX node.
    """

    name: str
    axes: tuple[Axis, ...]
    reads: tuple[Access, ...]
    body: tuple[Expr, ...]
    writes: tuple[Write, ...]
    combiner: Combiner | None = None
    inplace: str = ""
    loc: Location = Location()

    @property
    def spatial(self) -> tuple[Axis, ...]:
        return tuple(x for x in self.axes if x.kind == "spatial")

    @property
    def reduce(self) -> tuple[Axis, ...]:
        return tuple(x for x in self.axes if x.kind == "reduce")

    @property
    def inputs(self) -> tuple[Value, ...]:
        bases = (w.base for w in self.writes if w.base is not None)
        return tuple(dict.fromkeys([*(x.value for x in self.reads), *bases]))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(x.value for x in self.writes)

    @property
    def is_scatter(self) -> bool:
        return any(w.base is not None or w.update is not None for w in self.writes)


@attrs.frozen(cache_hash=True)
class ScanOp:
    """A recurrence along one ordered axis, independent over the spatial axes (cumulative sums, linear recurrences).

    At each step of `scan`, in order: `state = step(state, reads)`, then the writes store `results`, which may use the
    states before the step (`p0, p1, …`) and after it (`s0, s1, …`) and the loads.

    Args:
        init: value of each state before the first step, over the spatial axes' loads.
        step: new value of each state in terms of `p0, p1, …` and the loads.
    """

    name: str
    axes: tuple[Axis, ...]
    scan: Axis
    reads: tuple[Access, ...]
    init: tuple[Expr, ...]
    step: tuple[Expr, ...]
    results: tuple[Expr, ...]
    writes: tuple[Write, ...]
    loc: Location = Location()

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(x.value for x in self.reads))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(x.value for x in self.writes)


def _attributes(given: Mapping[str, Any] | tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    items = given.items() if isinstance(given, Mapping) else given
    return tuple(sorted(items, key=lambda item: item[0]))


@attrs.frozen(cache_hash=True)
class Routine:
    """A computation with a tile interface that is not welded: TopK, sorting, FFT, a library call.

    `kind` names a record that gives its NumPy meaning and, per backend, its code.

    Args:
        parallel: numbers of leading output dimensions over which it splits into independent tasks.
        workspace: bytes of scratch memory per task.
    """

    name: str
    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: tuple[tuple[str, Any], ...] = attrs.field(default=(), converter=_attributes)
    parallel: int = 0
    workspace: Expr = attrs.field(factory=lambda: const(0))
    loc: Location = Location()


@attrs.frozen(cache_hash=True)
class OnnxNode:
    """An ONNX operator before legalisation. Attributes are Python values; tensors are `numpy.ndarray` by identity."""

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: tuple[tuple[str, Any], ...] = attrs.field(default=(), converter=_attributes, eq=False)
    loc: Location = Location()

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, or `default`."""
        return dict(self.attributes).get(name, default)


@attrs.frozen(cache_hash=True)
class Loop:
    """Repeats `body` while its condition holds (ONNX `Loop`; `Scan` becomes one too).

    The body takes (iteration number, condition, carried…) and returns (condition, carried…, scan outputs…). A body that
    returns its condition parameter never ends the loop early. A scan output has a row per trip, and where data decide
    how many there are, as many rows as there can be, of which those behind the last trip hold anything.

    Args:
        trip: the largest number of trips, an int64 scalar; None when it is `count`, or when there is no limit.
        condition: whether there is a first trip, a bool scalar; None for true.
        count: the largest number of trips when it is known at compile time.
    """

    name: str
    trip: Value | None
    condition: Value | None
    carried: tuple[Value, ...]
    outputs: tuple[Value, ...]
    body: Region
    count: Expr | None = None
    loc: Location = Location()

    @property
    def inputs(self) -> tuple[Value, ...]:
        given = tuple(x for x in (self.trip, self.condition) if x is not None)
        return tuple(dict.fromkeys((*given, *self.carried, *self.body.captured)))


@attrs.frozen(cache_hash=True)
class If:
    """Runs one of two regions without parameters, whose results are the outputs."""

    name: str
    condition: Value
    then: Region
    orelse: Region
    outputs: tuple[Value, ...]
    loc: Location = Location()

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys((self.condition, *self.then.captured, *self.orelse.captured)))


@attrs.frozen(cache_hash=True)
class Call:
    """Calls a function of the module; may recurse."""

    name: str
    function: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    loc: Location = Location()


Op = TensorOp | ScanOp | Routine | OnnxNode | Loop | If | Call


@attrs.frozen(cache_hash=True)
class Region:
    """A list of operators in execution order, single assignment.

    Values that it uses but neither defines nor takes as parameters are captured from the enclosing region.
    """

    params: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[Value, ...]

    @property
    def captured(self) -> tuple[Value, ...]:
        known = set(self.params)
        found: dict[Value, None] = {}
        for op in self.ops:
            for used in op.inputs:
                if used is not None and used not in known:
                    found[used] = None
            known.update(x for x in op.outputs if x is not None)
        found.update(dict.fromkeys(x for x in self.results if x not in known))
        return tuple(found)


def bodies(op: Op) -> tuple[Region, ...]:
    """The regions inside an operator."""
    if isinstance(op, Loop):
        return (op.body,)
    if isinstance(op, If):
        return (op.then, op.orelse)
    return ()


