"""Recurrences: a thread goes through the steps of its point, or the lanes of a warp take as many steps at once.

The second form is for steps that are one associative operation. Its lanes join their terms with those of the lanes
below by exchanges over doubling distances (W. D. Hillis and G. L. Steele, 1986), and then with the state before.
"""

from __future__ import annotations

from contextlib import nullcontext

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Apply, Expr, minimum
from tilewright.ir.ops import ScanOp
from tilewright.ir.program import Kernel
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import count, decompose, point_at
from tilewright_backends.emit.gpu.states import States, from_lane
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.scan import Scan, scan_of


def emit(body: GpuBody, kernel: Kernel, op: ScanOp) -> None:
    """The code of one task of a kernel."""
    scan = scan_of(op)
    if scan is None:
        raise InternalError(f"scan does not take kernel {kernel.name}.")
    statements(body, scan, kernel.choice["x.block"], kernel.choice["lanes"])


def statements(body: GpuBody, scan: Scan, points: int, lanes: int) -> None:
    """Statements of one task: `points` points with `lanes` neighbouring threads each.

    Args:
        lanes: a power of two, at most a warp; 1 unless the scan has a term.
    """
    total = count(scan.spec.spatial)
    number = body.hold(body.task * points + body.thread // lanes, "point")
    inside = body.below(number, total)
    if lanes == 1:
        with nullcontext() if inside is None else body.when(inside):
            _one_thread(body, scan, decompose(number, scan.spec.spatial, body))
        return
    # Threads without a point do as the last one does: exchanges want the whole warp.
    at = decompose(minimum(number, total - 1), scan.spec.spatial, body)
    _lanes(body, scan, at, inside, lanes)


def _states(body: GpuBody, scan: Scan, at: dict[str, Expr]) -> States:
    """The states before the first step."""
    init = scan.spec.body[: scan.states]
    states = States(body, [x.dtype for x in init])
    start = point_at(body, scan.spec, at)
    states.write([start.value(x) for x in init])
    return states


def _one_thread(body: GpuBody, scan: Scan, at: dict[str, Expr]) -> None:
    spec, states = scan.spec, _states(body, scan, at)
    with body.loop("t", scan.steps) as number:
        point = point_at(body, spec, at | decompose(number, spec.reduce, body))
        point.give({f"p{i}": x for i, x in enumerate(states.read())})
        after = [body.bind(point.value(x)) for x in spec.body[scan.states :]]
        point.give({f"s{i}": x for i, x in enumerate(after)})
        for store in spec.stores:
            point.store(store)
        states.write(after)


def _lanes(body: GpuBody, scan: Scan, at: dict[str, Expr], inside: Prim | None, lanes: int) -> None:
    """Each trip takes `lanes` steps; the last lane's state is the one that the next trip begins with."""
    spec, states, term = scan.spec, _states(body, scan, at), scan.term
    assert term is not None
    (dtype,) = states.dtypes
    lane = body.hold(body.thread % lanes, "lane")
    me = body.bind(body.index(body.thread % body.warp), "me")
    first = body.bind(body.index(lane < 1), "first")
    below = body.bind(tirx.Select(first, me, tirx.Sub(me, i32(1))), "below")
    last = body.bind(body.index(body.thread % body.warp - lane + (lanes - 1)), "last")

    with body.loop("trip", -(-scan.steps // lanes)) as trip:
        number = body.hold(trip * lanes + lane, "t")
        present = body.below(number, scan.steps)
        step = decompose(minimum(number, scan.steps - 1), spec.reduce, body)
        point = point_at(body, spec, at | step)
        (before,) = states.read()
        after = _join(body, scan, before, _prefix(body, scan, point.value(term), lane, me, lanes))
        earlier = from_lane(body, after, dtype, below)
        point.give({"p0": body.bind(tirx.Select(first, before, earlier)), "s0": after})
        states.write([from_lane(body, after, dtype, last)])
        conditions = [x for x in (inside, present) if x is not None]
        with body.when(tirx.all(*conditions)) if conditions else nullcontext():
            for store in spec.stores:
                point.store(store)


def _prefix(body: GpuBody, scan: Scan, term: Prim, lane: Expr, me: Prim, lanes: int) -> Prim:
    """The terms of a lane and of those below it in its team, joined."""
    found = body.bind(term)
    distance = 1
    while distance < lanes:
        far = body.bind(body.index(lane >= distance), "far")
        source = body.bind(tirx.Select(far, tirx.Sub(me, i32(distance)), me), "source")
        other = from_lane(body, found, scan.spec.body[0].dtype, source)
        found = body.bind(tirx.Select(far, _join(body, scan, other, found), found))
        distance *= 2
    return found


def _join(body: GpuBody, scan: Scan, left: Prim, right: Prim) -> Prim:
    step = scan.spec.body[scan.states]
    assert isinstance(step, Apply)
    return body.bind(body.semantics.apply(step.op, [left, right], step.dtype, step.dtype, body.bind))
