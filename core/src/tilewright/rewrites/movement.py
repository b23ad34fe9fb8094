"""`read_through_movements` (bitwise): consumers read through pads, transposes, slices, casts and reshapes.

A movement that moves no bytes (a view) is read through by all of its consumers, any other only by a lone consumer, so
that no strided read is paid twice. An aligned part of an input stays: it needs no kernel, and operators that read other
parts of it look the same.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import attrs

from tilewright.ir.ops import Op, Region, TensorOp, Value, bodies
from tilewright.views.kernel import inline_producer, spec_of
from tilewright.views.layout import is_movement, is_view, part_offset


def read_through(op: TensorOp, value: Value, producer: TensorOp) -> TensorOp | None:
    """`op` with every read of `value` replaced by the producer's reads, or None when the map is not exact."""
    if any(write.base == value for write in op.writes):
        return None
    spec = spec_of(op)
    while True:
        slot = next((i for i, access in enumerate(spec.reads) if access.value == value), None)
        if slot is None:
            return attrs.evolve(op, reads=spec.reads, body=spec.body)
        inlined = inline_producer(spec, slot, producer)
        if inlined is None or [s.write for s in inlined.stores] != list(op.writes):
            return None
        spec = inlined


def users_of(ops: Sequence[Op]) -> dict[Value, list[int]]:
    """The positions of the operators that use each value, once each."""
    users: dict[Value, list[int]] = {}
    for i, op in enumerate(ops):
        for value in op.inputs:
            if value is not None:
                users.setdefault(value, []).append(i)
    return users


def held_outside(region: Region) -> set[Value]:
    """What must stand in memory as it is: results, and what nested regions read."""
    return {*region.results, *(v for op in region.ops for body in bodies(op) for v in body.captured)}


def read_through_movements(region: Region, inputs: Container[str] = ()) -> Region:
    """The region (without its nested ones) with movements inlined into their consumers where that is exact.

    Args:
        inputs: names of the program's inputs, of which parts are not read through.
    """
    ops: list[Op] = list(region.ops)
    users, kept_alive = users_of(ops), held_outside(region)
    dropped: set[int] = set()
    # In order, so that a movement of a movement is read through as a whole.
    for i, op in enumerate(ops):
        if not isinstance(op, TensorOp) or not is_movement(op):
            continue
        value = op.writes[0].value
        readers = users.get(value, [])
        if value in kept_alive or not readers or (len(readers) > 1 and not is_view(op)):
            continue
        if part_offset(op, inputs) is not None:
            continue
        rewritten = {u: _reader(ops[u], value, op) for u in readers}
        if all(rewritten.values()):
            for u, new in rewritten.items():
                assert new is not None
                ops[u] = new
                for source in op.inputs:
                    users.setdefault(source, []).append(u)
            dropped.add(i)
    return attrs.evolve(region, ops=tuple(op for i, op in enumerate(ops) if i not in dropped))


def _reader(reader: Op, value: Value, producer: TensorOp) -> TensorOp | None:
    return read_through(reader, value, producer) if isinstance(reader, TensorOp) else None
