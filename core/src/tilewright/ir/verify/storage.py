"""Laws of storage: every value has a place, is inside it while it is used, and shares bytes with nothing alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, bounds_of
from tilewright.ir.ops import TensorOp
from tilewright.ir.program import Kernel, Placement, Program, numbered_launches
from tilewright.ir.verify.frames import check_frames, of_host
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.tree import Touch, tasks_of, touches
from tilewright.ir.verify.turns import in_one_launch

PLACED = "every value that a step touches has a placement, inside a buffer of the storage, large enough for it"
LIVE = "a value is touched within its lifetime; one that a loop carries, or brings in, lives for the whole loop"
OWNED = "a value in a buffer of a launch or a unit is touched by one launch only"
OVERLAP = (
    "values whose lifetimes overlap share no byte, except an operand with the result that overwrites it in place, parts"
    " of an input, which nothing writes, and values of one launch, of which its order decides"
)


def check_storage(program: Program, symbols: Bounds, place: Place) -> None:
    """Refuses storage that breaks a law of this file."""
    place = place.at("storage")
    for name, placement in program.storage.placements.items():
        _check_placement(name, placement, program, symbols, place.at(f"value {name}"))
    touched = touches(program)
    for touch in touched:
        if touch.value not in program.storage.placements:
            raise place.at(f"value {touch.value}").broken(PLACED, f"step {touch.step} touches it; it has no placement")
    _check_owners(program, touched, place)
    _check_lifetimes(program, touched, place)
    check_frames(program, touched, place)
    _check_overlap(program, place)


def _check_placement(name: str, found: Placement, program: Program, symbols: Bounds, place: Place) -> None:
    if found.value.name != name:
        raise place.broken(PLACED, f"the placement is of {found.value.name!r}")
    buffer = program.storage.buffers.get(found.buffer)
    if buffer is None:
        raise place.broken(PLACED, f"there is no buffer {found.buffer!r}")
    if found.offset < 0 or found.offset + found.bytes > buffer.bytes:
        end = found.offset + found.bytes
        raise place.broken(PLACED, f"bytes [{found.offset}, {end}) of {buffer.name!r}, which has {buffer.bytes}")
    needed = bounds_of(found.value.num_elements(), symbols).high * dtypes.size_of(found.value.dtype)
    if found.bytes < needed:
        raise place.broken(PLACED, f"it has {found.bytes} bytes and needs up to {needed}")


def _check_owners(program: Program, touched: Sequence[Touch], place: Place) -> None:
    steps: dict[str, int] = {}
    for touch in touched:
        buffer = program.storage.buffers[program.storage.placements[touch.value].buffer]
        if buffer.owner in ("launch", "unit") and steps.setdefault(touch.value, touch.step) != touch.step:
            found = f"steps {steps[touch.value]} and {touch.step} touch it, in a buffer of one {buffer.owner}"
            raise place.at(f"value {touch.value}").broken(OWNED, found)


def _check_lifetimes(program: Program, touched: Sequence[Touch], place: Place) -> None:
    fixed = {x.name for x in (*program.inputs, *program.outputs)} | set(program.weights)
    steps: dict[str, set[int]] = {}
    first: dict[str, Touch] = {}
    shared = of_host(program, touched)
    # What a procedure reads of the host program is touched by the calls too.
    touched = [x for x in touched if not x.procedure or x.value not in shared]
    for touch in touched:
        steps.setdefault(touch.value, set()).add(touch.step)
        first.setdefault(touch.value, touch)
    for touch in touched:
        placement = program.storage.placements[touch.value]
        begin = end = touch.step
        for low, high in touch.loops:
            outside = any(not low <= x <= high for x in steps[touch.value])
            if outside or touch.value in fixed or not first[touch.value].write:
                begin, end = min(begin, low), max(end, high)
        if not (placement.first <= begin and end <= placement.last):
            found = f"it is needed in steps {begin} to {end} and lives in steps {placement.first} to {placement.last}"
            raise place.at(f"value {touch.value}").broken(LIVE, found)


def _check_overlap(program: Program, place: Place) -> None:
    by_buffer: dict[str, list[Placement]] = {}
    for placement in program.storage.placements.values():
        by_buffer.setdefault(placement.buffer, []).append(placement)
    inplace = set(_overwritten(program))
    meeting = frozenset(n for n, x in numbered_launches(program.body) if x.envelope.cooperative)
    for name, placements in by_buffer.items():
        if program.storage.buffers[name].kind == "input":
            continue
        ordered = sorted(placements, key=lambda x: (x.offset, x.value.name))
        first, last, end = np.array([(x.first, x.last, x.offset + x.bytes) for x in ordered], np.int64).T
        for i, b in enumerate(ordered):
            if not b.bytes:
                continue
            together = (end[:i] > b.offset) & (first[:i] <= b.last) & (b.first <= last[:i])
            for a in (ordered[k] for k in np.flatnonzero(together)):
                pair = frozenset((a.value.name, b.value.name))
                once = min(a.last, b.last) == max(a.first, b.first)
                if (a.offset, a.bytes) == (b.offset, b.bytes) and once and pair in inplace:
                    continue
                if in_one_launch(a, b, meeting):
                    continue
                found = (
                    f"{a.value.name!r} (steps {a.first} to {a.last}) and {b.value.name!r} (steps {b.first} to {b.last})"
                )
                raise place.at(f"buffer {a.buffer}").broken(OVERLAP, f"{found} share byte {b.offset}")


def _overwritten(program: Program) -> Iterator[frozenset[str]]:
    """Pairs of values of which a kernel writes one in the place of the other."""
    for task in tasks_of(program.parts):
        kernel = program.kernels[task.kernel]
        actual = {p.name: a for p, a in zip(kernel.params, task.args, strict=True)}
        for source, target in inplace_pairs(kernel):
            if source in actual and target in actual:
                yield frozenset((actual[source], actual[target]))


def inplace_pairs(kernel: Kernel) -> list[tuple[str, str]]:
    """(operand, result) of the kernel's operators where the result may stand in the operand's bytes."""
    tensor_ops = (op for op in kernel.group.ops if isinstance(op, TensorOp) and op.inplace)
    return [(op.inplace, op.writes[0].value.name) for op in tensor_ops]
