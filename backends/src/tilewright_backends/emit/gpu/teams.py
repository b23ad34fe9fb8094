"""Teams: threads of a block that share the reductions of its points, and how their states become one.

Lanes of one point are neighbours, or neighbouring threads have neighbouring points. Lanes of a warp exchange their
states; what warps have then is merged through shared memory, by one thread for each point where that is little, and
otherwise by a warp, for a thread alone would wait for one load after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs

from tilewright.ir.expr import Expr
from tilewright.ir.ops import Combiner
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.states import States, across, cell, from_cell, to_cell
from tilewright_backends.lower import types
from tilewright_backends.lower.point import combine
from tilewright_backends.lower.types import Prim

_ALONE = 8
"""Partial states of a point that one thread merges."""


@attrs.frozen
class Teams:
    """`lanes` threads for each of `points`.

    Args:
        lanes: a power of two.
        along: thread `which * lanes + lane`; otherwise thread `lane * points + which`.
    """

    points: int
    lanes: int
    along: bool

    def split(self, body: GpuBody) -> tuple[Expr, Expr]:
        """Lane and point of a thread; one of both is too large in threads that belong to no team."""
        if self.along:
            return body.hold(body.thread % self.lanes, "lane"), body.hold(body.thread // self.lanes, "which")
        return body.hold(body.thread // self.points, "lane"), body.hold(body.thread % self.points, "which")

    def within_warps(self, warp: int) -> bool:
        """Whether lanes of a point meet in a warp."""
        together = warp % self.points == 0 and warp <= self.points * self.lanes
        return self.along or (self.points < warp and together)

    def rows(self, warp: int) -> int:
        """States of a point that are left when warps have exchanged theirs; at most 1: no more to do."""
        if self.along:
            return self.lanes // warp
        return self.lanes * self.points // warp if self.within_warps(warp) else self.lanes


def partials(body: GpuBody, dtypes: Sequence[str], teams: Teams) -> list[Prim]:
    """The shared memory in which teams merge their states; none where they need none."""
    rows = teams.rows(body.warp)
    return [body.shared(cell(d), rows * teams.points, "partial") for d in dtypes] if rows > 1 else []


def merge(
    body: GpuBody, combiner: Combiner, states: States, teams: Teams, at: tuple[Expr, Expr], tables: Sequence[Prim]
) -> None:
    """Merges the states of each point's lanes; lane 0 has the result. All threads of the block must come here.

    Args:
        at: lane and point of the thread.
        tables: shared memory for a state of each thread, which nothing else uses meanwhile.
    """
    lane, which = at
    points, lanes, warp = teams.points, teams.lanes, body.warp
    first, rows, row = None, teams.rows(warp), lane
    if teams.along:
        join_warp(body, combiner, states, min(lanes, warp))
        row, first = body.hold(lane // warp, "row"), body.index((body.thread % warp) < 1)
    elif teams.within_warps(warp):
        exchange(body, combiner, states, points, warp)
        row, first = body.hold(body.thread // warp, "row"), body.index((body.thread % warp) < points)
    if rows <= 1:
        return
    there = body.below(which, points) if teams.along else body.below(lane, lanes)
    place = body.index(row * points + which)
    with _when(body, there), _when(body, first):
        for table, register in zip(tables, states.registers, strict=True):
            body.store(table, place, register[0])
    body.sync()
    if rows > _ALONE:
        _merged_by_warps(body, combiner, points, rows, tables)
        body.sync()
    with body.when(body.index(lane < 1)), _when(body, there if teams.along else None):
        states.write(_read(body, combiner, tables, which))
        if rows <= _ALONE:
            with body.loop("other", rows - 1, "unrolled") as other:
                right = _read(body, combiner, tables, (other + 1) * points + which)
                states.write(combine(body, body.semantics, combiner, states.read(), right))


def _merged_by_warps(body: GpuBody, combiner: Combiner, points: int, rows: int, tables: Sequence[Prim]) -> None:
    """Merges the rows of the tables into the first one; some lanes of a warp for each point."""
    width = min(body.warp, rows)
    lane, which = body.hold(body.thread % width, "lane"), body.hold(body.thread // width, "which")
    states = States(body, combiner.dtypes)
    states.write([types.literal(x.value, types.carrier(x.dtype)) for x in combiner.identity])
    there = body.below(which, points)
    with _when(body, there):
        states.write(_read(body, combiner, tables, lane * points + which))
        with body.loop("other", rows // width - 1, "unrolled") as other:
            right = _read(body, combiner, tables, ((other + 1) * width + lane) * points + which)
            states.write(combine(body, body.semantics, combiner, states.read(), right))
    join_warp(body, combiner, states, width)
    with _when(body, there), body.when(body.index(lane < 1)):
        for table, value, dtype in zip(tables, states.read(), combiner.dtypes, strict=True):
            body.store(table, body.index(which), to_cell(value, dtype))


def _read(body: GpuBody, combiner: Combiner, tables: Sequence[Prim], place: Expr) -> list[Prim]:
    at = body.index(place)
    return [from_cell(body, table[at], dtype) for table, dtype in zip(tables, combiner.dtypes, strict=True)]


def _when(body: GpuBody, condition: Prim | None) -> AbstractContextManager[None]:
    return nullcontext() if condition is None else body.when(condition)


def join_warp(body: GpuBody, combiner: Combiner, states: States, width: int) -> None:
    """Butterfly exchange among `width` neighbouring lanes; all of them end with the result."""
    exchange(body, combiner, states, 1, width)


def exchange(body: GpuBody, combiner: Combiner, states: States, least: int, width: int) -> None:
    """The same among those of `width` neighbouring lanes whose distances are multiples of `least`."""
    distance = width // 2
    while distance >= least:
        left = states.read()
        right = [across(body, x, d, distance) for x, d in zip(left, combiner.dtypes, strict=True)]
        states.write(combine(body, body.semantics, combiner, left, right))
        distance //= 2
