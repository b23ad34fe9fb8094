"""Reductions: a block takes some points and gives each of them a team of lanes that share its reduction.

One lane per point is the plain serial loop, which also runs small windows (pooling, depthwise convolution) and every
kernel that no other recipe takes. Lanes lie side by side in memory along the reduction (`along_reduction`) or along
the points, whichever the loads want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, minimum
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.points import SEMANTICS, count, decompose, point_at, size
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import combine
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.reduce import teams_of

WARP = 32
_UNROLL = 64
"""Reductions of at most this many steps are unrolled."""


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    teams = teams_of(spec)
    if teams is None:
        raise InternalError(f"cuda.reduce does not take kernel {kernel.name}.")
    statements(body, teams.spec, kernel.choice["x.block"], kernel.choice["lanes"], teams.along_reduction)


def statements(body: Body, spec: FlatSpec, points: int, lanes: int, along_reduction: bool) -> None:
    """Statements of one task: `points` points with `lanes` threads each (`points * lanes` is the block).

    Args:
        lanes: a power of two; 1 unless the combiner is associative and commutative.
        along_reduction: neighbouring threads are lanes of one point, otherwise the same lane of neighbouring points.
    """
    total = count(spec.spatial)
    if along_reduction:
        lane, which = body.hold(body.thread % lanes, "lane"), body.hold(body.thread // lanes, "which")
    else:
        lane, which = body.hold(body.thread // points, "lane"), body.hold(body.thread % points, "which")
    number = body.hold(body.task * points + which, "point")
    edge = total % points != 0
    inside = body.bind(body.index(number < total), "inside") if edge else None
    if edge:
        number = body.hold(minimum(number, total - 1), "point")
    at = decompose(number, spec.spatial, body)
    states = _accumulate(body, spec, at, lane, lanes)
    if lanes > 1:
        states = _join(body, spec, states, lane, which, points, lanes, along_reduction)
        first = body.index(lane < 1)
        inside = first if inside is None else tirx.And(inside, first)
    if inside is None:
        _finish(body, spec, at, states)
    else:
        with body.when(inside):
            _finish(body, spec, at, states)


def _finish(body: Body, spec: FlatSpec, at: dict[str, Expr], registers: Sequence[Prim]) -> None:
    point = point_at(body, spec, at, _read(body, spec, registers))
    for store in spec.stores:
        point.store(store)


def state_dtypes(spec: FlatSpec) -> tuple[str, ...]:
    """IR dtypes of the states of a reduction."""
    assert spec.combiner is not None
    return spec.combiner.dtypes


def _cell(dtype: str) -> str:
    """TIR dtype of the registers of a state: booleans and small integers as int32, which warps can exchange."""
    return "int32" if dtype in ("bool", "int8", "uint8", "int16", "uint16") else types.carrier(dtype)


def _read(body: Body, spec: FlatSpec, registers: Sequence[Prim], index: int = 0) -> list[Prim]:
    """The states in registers as carried values."""
    return [_from_cell(body, r[index], d) for r, d in zip(registers, state_dtypes(spec), strict=True)]


def _from_cell(body: Body, value: Prim, dtype: str) -> Prim:
    if dtype == "bool":
        return body.bind(tirx.NE(value, types.literal(0, "int32")), "s")
    return body.bind(types.convert(value, types.carrier(dtype)), "s")


def _write(body: Body, spec: FlatSpec, registers: Sequence[Prim], values: Sequence[Prim]) -> None:
    named = [body.bind(x, "merged") for x in values]
    for register, value, dtype in zip(registers, named, state_dtypes(spec), strict=True):
        body.store(register, types.literal(0, "int32"), types.convert(value, _cell(dtype)))


def _accumulate(body: Body, spec: FlatSpec, at: dict[str, Expr], lane: Expr, lanes: int) -> list[Prim]:
    """The states of the reduction steps `lane, lane + lanes, …` in registers."""
    combiner = spec.combiner
    assert combiner is not None
    registers = [body.registers(_cell(d), 1, "acc") for d in combiner.dtypes]
    _write(body, spec, registers, [types.literal(x.value, types.carrier(x.dtype)) for x in combiner.identity])

    def step(reduced: dict[str, Expr]) -> None:
        point = point_at(body, spec, {**at, **reduced})
        new = [point.value(x) for x in spec.body]
        _write(body, spec, registers, combine(body, SEMANTICS, combiner, _read(body, spec, registers), new))

    if lanes == 1:
        _nest(body, spec, {}, step, count(spec.reduce) <= _UNROLL)
        return registers
    total = count(spec.reduce)
    with body.loop("step", -(-total // lanes)) as trip:
        number = body.hold(trip * lanes + lane, "r")
        if total % lanes:
            with body.when(body.index(number < total)):
                step(decompose(number, spec.reduce, body))
        else:
            step(decompose(number, spec.reduce, body))
    return registers


def _nest(
    body: Body, spec: FlatSpec, done: dict[str, Expr], step: Callable[[dict[str, Expr]], None], unroll: bool
) -> None:
    """Loops over the reduce axes that are not in `done`."""
    rest = spec.reduce[len(done) :]
    if not rest:
        step(done)
        return
    with body.loop("r", size(rest[0]), "unrolled" if unroll else "serial") as index:
        _nest(body, spec, {**done, rest[0].name: index}, step, unroll)


def _join(
    body: Body,
    spec: FlatSpec,
    registers: list[Prim],
    lane: Expr,
    which: Expr,
    points: int,
    lanes: int,
    along_reduction: bool,
) -> list[Prim]:
    """Merges the lanes' states; lane 0 has the result."""
    if along_reduction:
        _join_warp(body, spec, registers, min(lanes, WARP))
        if lanes <= WARP:
            return registers
        lane, lanes = body.hold(lane // WARP, "warp"), lanes // WARP
        deposits = body.index((body.thread % WARP) < 1)
    else:
        deposits = None
    # The partial states of each point, one row per lane (or warp), merged by the first.
    combiner = spec.combiner
    assert combiner is not None
    tables = [body.shared(_cell(d), points * lanes, "partial") for d in combiner.dtypes]
    place = body.index(lane * points + which)
    with body.when(deposits) if deposits is not None else nullcontext():
        for table, register in zip(tables, registers, strict=True):
            body.store(table, place, register[0])
    body.sync()
    with body.when(body.index(lane < 1)), body.loop("other", lanes - 1) as other:
        row = body.index((other + 1) * points + which)
        dtypes = state_dtypes(spec)
        right = [_from_cell(body, t[row], d) for t, d in zip(tables, dtypes, strict=True)]
        _write(body, spec, registers, combine(body, SEMANTICS, combiner, _read(body, spec, registers), right))
    return registers


def _join_warp(body: Body, spec: FlatSpec, registers: list[Prim], width: int) -> None:
    """Butterfly exchange among `width` neighbouring lanes; all of them end with the result."""
    combiner = spec.combiner
    assert combiner is not None
    distance = width // 2
    while distance:
        right = []
        for register, dtype in zip(registers, combiner.dtypes, strict=True):
            other = body.call(
                "__shfl_xor_sync",
                types.literal(-1, "int32"),
                register[0],
                types.literal(distance, "int32"),
                source="",
                result=_cell(dtype),
            )
            right.append(_from_cell(body, other, dtype))
        left = _read(body, spec, registers)
        _write(body, spec, registers, combine(body, SEMANTICS, combiner, left, right))
        distance //= 2
