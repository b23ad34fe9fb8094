"""Laws of tensor operators and scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds
from tilewright.ir.expr import Expr, loads, variables
from tilewright.ir.ops import Access, Axis, ScanOp, TensorOp, Write
from tilewright.ir.verify.accesses import check_in_range
from tilewright.ir.verify.combiners import check_combiner
from tilewright.ir.verify.coverage import check_coverage
from tilewright.ir.verify.exprs import ExprChecker, check_extent
from tilewright.ir.verify.laws import Place, show, show_value

AXES = "the names of axes are unique and differ from those of symbols"
ORDER = "spatial axes stand before reduce axes"
RANK = "an index has one expression per dimension of its value"
FILL = "a guarded read says what it is where the guard does not hold, in the dtype of its value; no other read does"
REDUCE = "an operator has reduce axes exactly when it has a combiner, with one body per state of the state's dtype"
STATES = "every write stores a state of its kind (float, integer or bool)"
INVARIANT = "where a write goes does not depend on a reduce axis"
BASE = "a write that updates has a base, and a base is of the value's dtype and shape"
INPLACE = "an operand that is overwritten in place is of the first written value's dtype and shape"
SCAN = "a scan has one step per state of the state's dtype, one result per write, and starts from spatial reads"


def check_tensor(op: TensorOp, symbols: Bounds, place: Place) -> None:
    """Refuses a tensor operator that breaks a law of this file or of those that it imports."""
    _check_axes(op.axes, symbols, place)
    checker = _check_reads(op.reads, op.axes, symbols, place)
    for number, body in enumerate(op.body):
        checker.check(body, place.at(f"body {number}"))
    _check_reduction(op, place)
    spatial = op.spatial
    hidden = _dependent(op.reads, {x.name for x in op.reduce})
    for number, write in enumerate(op.writes):
        there = place.at(f"write {number}")
        if number >= len(op.body):
            raise there.broken(STATES, f"there is no state {number}")
        for expr in (*write.index, write.guard):
            if expr is not None and (variables(expr) & {x.name for x in op.reduce} or loads(expr) & hidden):
                raise there.broken(INVARIANT, f"{show(expr)} does")
        _check_write(write, op.body[number].dtype, checker, spatial, symbols, there)
    if not op.writes:
        raise place.broken(STATES, "it writes nothing")
    if op.inplace:
        _check_inplace(op, place)


def check_scan(op: ScanOp, symbols: Bounds, place: Place) -> None:
    """Refuses a scan that breaks a law of this file or of those that it imports."""
    axes = (*op.axes, op.scan)
    _check_axes(axes, symbols, place)
    checker = _check_reads(op.reads, axes, symbols, place)
    late = _dependent(op.reads, {op.scan.name})
    for number, start in enumerate(op.init):
        checker.check(start, place.at(f"init {number}"))
        if op.scan.name in variables(start) or loads(start) & late:
            raise place.at(f"init {number}").broken(SCAN, f"{show(start)} depends on the scan axis")
    if len(op.step) != len(op.init) or len(op.results) != len(op.writes) or not op.writes:
        found = f"{len(op.init)} states, {len(op.step)} steps, {len(op.results)} results, {len(op.writes)} writes"
        raise place.broken(SCAN, found)
    states = {f"p{i}": x.dtype for i, x in enumerate(op.init)}
    stepping = ExprChecker({**checker.variables, **states}, checker.loads)
    for number, step in enumerate(op.step):
        stepping.check(step, place.at(f"step {number}"), op.init[number].dtype)
    states |= {f"s{i}": x.dtype for i, x in enumerate(op.init)}
    finishing = ExprChecker({**checker.variables, **states}, checker.loads)
    for number, (result, write) in enumerate(zip(op.results, op.writes, strict=True)):
        finishing.check(result, place.at(f"result {number}"))
        _check_write(write, result.dtype, checker, axes, symbols, place.at(f"write {number}"))


def _check_axes(axes: Sequence[Axis], symbols: Bounds, place: Place) -> None:
    seen: dict[str, Axis] = {}
    for axis in axes:
        there = place.at(f"axis {axis.name}")
        if axis.name in seen or axis.name in symbols:
            raise there.broken(AXES, f"{axis.name!r} is another {'axis' if axis.name in seen else 'symbol'} already")
        if axis.kind == "spatial" and any(x.kind == "reduce" for x in seen.values()):
            raise there.broken(ORDER, f"spatial axis {axis.name!r} stands after a reduce axis")
        check_extent(axis.extent, symbols, there)
        seen[axis.name] = axis


def _check_reads(reads: Sequence[Access], axes: Sequence[Axis], symbols: Bounds, place: Place) -> ExprChecker:
    """Checks the reads in order; returns the checker of what may use all of them."""
    names = {**dict.fromkeys(symbols, "int64"), **{x.name: "int64" for x in axes}}
    for slot, read in enumerate(reads):
        there = place.at(f"read {slot} of {read.value.name}")
        # an index may use earlier reads only
        checker = ExprChecker(names, [x.value.dtype for x in reads[:slot]])
        _check_index(read, checker, there)
        if (read.guard is None) != (read.fill is None):
            found = f"guard {show(read.guard)}, fill {show(read.fill)}"
            raise there.broken(FILL, found)
        if read.fill is not None:
            checker.check(read.fill, there.at("fill"))
            if read.fill.dtype != read.value.dtype:
                raise there.broken(FILL, f"the fill is {read.fill.dtype}, the value {read.value.dtype}")
        check_in_range(read.value, read.index, read.guard, axes, symbols, there)
    return ExprChecker(names, [x.value.dtype for x in reads])


def _check_index(access: Access | Write, checker: ExprChecker, place: Place) -> None:
    if len(access.index) != access.value.rank:
        raise place.broken(RANK, f"{len(access.index)} expressions for rank {access.value.rank}")
    for expr in access.index:
        checker.check(expr, place.at("index"), "int64")
    if access.guard is not None:
        checker.check(access.guard, place.at("guard"), "bool")


def _check_reduction(op: TensorOp, place: Place) -> None:
    if (op.combiner is None) != (not op.reduce):
        raise place.broken(REDUCE, f"{len(op.reduce)} reduce axes, combiner {op.combiner and op.combiner.name!r}")
    if op.combiner is None:
        return
    check_combiner(op.combiner, place)
    found = tuple(x.dtype for x in op.body)
    if found != op.combiner.dtypes:
        raise place.broken(REDUCE, f"bodies of {', '.join(found)} for states of {', '.join(op.combiner.dtypes)}")


def _check_write(
    write: Write, state: str, checker: ExprChecker, axes: Sequence[Axis], symbols: Bounds, place: Place
) -> None:
    place = place.at(write.value.name)
    _check_index(write, checker, place)
    if _kind(state) != _kind(write.value.dtype):
        raise place.broken(STATES, f"a state of {state} for a value of {write.value.dtype}")
    check_in_range(write.value, write.index, write.guard, axes, symbols, place)
    if write.update is not None:
        check_combiner(write.update, place)
        if write.base is None or write.update.dtypes != (write.value.dtype,):
            found = f"update over {', '.join(write.update.dtypes)}, base {write.base and write.base.name!r}"
            raise place.broken(BASE, found)
    if write.base is None:
        check_coverage(write, axes, symbols, place)
    elif (write.base.dtype, write.base.shape) != (write.value.dtype, write.value.shape):
        raise place.broken(BASE, f"base {write.base.name!r} is {show_value(write.base)}")


def _check_inplace(op: TensorOp, place: Place) -> None:
    found = next((x for x in op.inputs if x.name == op.inplace), None)
    first = op.writes[0].value
    if found is None or (found.dtype, found.shape) != (first.dtype, first.shape):
        raise place.broken(INPLACE, f"{op.inplace!r} is not such an operand")


def _kind(dtype: str) -> str:
    return "float" if dtypes.is_float(dtype) else "bool" if dtype == "bool" else "integer"


def _dependent(reads: Sequence[Access], names: Iterable[str]) -> frozenset[int]:
    """Slots whose element depends on one of the named axes."""
    wanted = set(names)
    found: set[int] = set()
    for slot, read in enumerate(reads):
        parts: list[Expr] = [x for x in (*read.index, read.guard) if x is not None]
        if variables(*parts) & wanted or loads(*parts) & found:
            found.add(slot)
    return frozenset(found)
