"""`connect = "welder"`: the default cover, and kernels of it welded where that is predicted to save time.

Before that, products of one operand with several constants become one product.
"""

from __future__ import annotations

import math

import attrs

from tilewright.ir import dtypes
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Region, Value
from tilewright.planning.connect.epilogue import make as epilogue
from tilewright.planning.connect.order import topological
from tilewright.planning.record import in_kernel
from tilewright.planning.requests import Connect, Request
from tilewright.planning.session import Session
from tilewright.rewrites.movement import read_through_movements
from tilewright.rewrites.siblings import join_siblings
from tilewright_welder.options import WelderOptions
from tilewright_welder.search import Found, Weld, search
from tilewright_welder.tile_graph import TileGraph


def make(options: WelderOptions) -> Connect:
    """The service."""
    default = epilogue(absorb=True)

    def connect(region: Region, request: Request) -> Cover:
        budget = options.budget if request.budget is None else min(options.budget, request.budget)
        joined = _joined(region, request.session)
        return _welded(default(joined, request), request.session, attrs.evolve(options, budget=budget))

    return connect


def _joined(region: Region, session: Session) -> Region:
    found = join_siblings(read_through_movements(region, session.inputs), session.tensors)
    session.add_constants(found.constants)
    for name, members in found.names.items():
        for member in members:
            why = f"it reads what {len(members)} operators read, so {name} computes them all"
            session.decide("connect", member, f"part of {name}", why=why)
    return found.region


def _welded(cover: Cover, session: Session, options: WelderOptions) -> Cover:
    """The cover with welds, in the bodies of its control flow too."""
    inner = [
        attrs.evolve(x, bodies=tuple(_welded(body, session, options) for body in x.bodies))
        if isinstance(x, ControlItem)
        else x
        for x in cover.items
    ]
    cover = attrs.evolve(cover, items=tuple(inner))
    graph = TileGraph(cover, session.inputs)
    found = search(graph, session, options)
    _record(graph, found, session)
    home = {node: weld for weld in found.welds for node in weld.nodes}
    items = [
        home[i].group if i in home else item
        for i, item in enumerate(graph.items)
        if i not in home or home[i].nodes[0] == i
    ]
    return attrs.evolve(cover, items=topological(items))


def _record(graph: TileGraph, found: Found, session: Session) -> None:
    """Says of each weld what it saves, and of each edge between kernels why it is none."""
    for weld in found.welds:
        members = [x for i in weld.nodes if isinstance(x := graph.items[i], Group)]
        why = f"{_saved(graph, weld)}; together {weld.together * 1e6:.1f} µs, apart {weld.apart * 1e6:.1f} µs"
        for member in members:
            for op in member.ops:
                session.decide("connect", op.name, in_kernel(weld.group.name), [in_kernel(member.name)], why=why)
    home = {node: weld.nodes for weld in found.welds for node in weld.nodes}
    for (source, target), why in found.refused.items():
        ends = graph.items[source].name, graph.items[target].name
        session.decide("connect", f"{ends[0]} -> {ends[1]}", "global", ["shared"], why=why)
    if not found.complete:
        left = sum(i not in home for i in range(len(graph.items)))
        why = f"the budget was used up; {left} kernels stand alone"
        session.decide("connect", f"region of {graph.items[0].name}", "incomplete", why=why)


def _saved(graph: TileGraph, weld: Weld) -> str:
    """Bytes that no longer cross the boundaries of kernels: written once and read by each reader."""
    inside = set(weld.nodes)
    reads = sum(bytes_of(v) for e in graph.edges if {e.source, e.target} <= inside for v in e.values)
    writes = sum(bytes_of(v) for v in graph.crossing(weld.nodes) if v not in weld.group.outputs)
    return f"{len(weld.nodes)} kernels in one, {reads + writes} bytes less between kernels"


def bytes_of(value: Value) -> int:
    """Bytes of a value; symbolic extents count once."""
    return math.prod(x if isinstance(x, int) else 1 for x in value.extents) * dtypes.size_of(value.dtype)
