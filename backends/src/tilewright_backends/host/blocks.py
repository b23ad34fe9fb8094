"""A host program with calls as blocks: straight steps, then one decision where to go on.

Only what calls, directly or inside, is cut up. Loops and branches without calls stay steps of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from tilewright.ir.program import HostCall, HostIf, HostLoop, HostStep, Procedure, calls


@attrs.frozen
class Go:
    """Goes on at a block."""

    to: int


@attrs.frozen
class Decide:
    """Goes on by a scalar value."""

    condition: str
    then: int
    orelse: int


@attrs.frozen
class Start:
    """Starts a loop: its counter is zero, its limit is read."""

    loop: HostLoop
    counter: int
    limit: int
    head: int


@attrs.frozen
class Trip:
    """Goes on with a trip of a loop, or behind it."""

    loop: HostLoop
    counter: int
    limit: int
    body: int
    after: int


@attrs.frozen
class Next:
    """Ends a trip of a loop."""

    counter: int
    head: int


@attrs.frozen
class Enter:
    """Calls a procedure, which returns to a block."""

    call: HostCall
    back: int


@attrs.frozen
class Leave:
    """Returns to the caller."""


@attrs.frozen
class Stop:
    """Ends the program."""


@attrs.define
class Block:
    """Steps without calls, and what comes after them.

    Args:
        counters: slot of each enclosing loop's counter, by the counter's name.
        returned: the call whose results are fetched first.
    """

    counters: Mapping[str, int]
    returned: HostCall | None = None
    steps: list[HostStep] = attrs.field(factory=list)
    end: Go | Decide | Start | Trip | Next | Enter | Leave | Stop = Stop()


@attrs.frozen
class Blocks:
    """A program in blocks, which are called by their numbers. It starts at block 0.

    Args:
        entries: first block of each procedure.
        slots: 64-bit numbers of the host that a call has to keep: where it returns to (slot 0), counters and limits.
    """

    blocks: tuple[Block, ...]
    entries: Mapping[str, int]
    slots: int


def blocks_of(body: Sequence[HostStep], procedures: Iterable[Procedure]) -> Blocks:
    """A host tree and its procedures as blocks; what launches call is theirs."""
    cutter = _Cutter()
    cutter.cut(body, cutter.block({}))
    entries: dict[str, int] = {}
    for procedure in (x for x in procedures if not x.parts):
        first = cutter.block({})
        entries[procedure.name] = first
        cutter.slots = 1
        cutter.blocks[cutter.cut(procedure.host, first)].end = Leave()
    return Blocks(tuple(cutter.blocks), entries, cutter.most)


class _Cutter:
    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.slots = 1
        self.most = 1

    def block(self, counters: Mapping[str, int], returned: HostCall | None = None) -> int:
        """A new block's number."""
        self.blocks.append(Block(counters, returned))
        return len(self.blocks) - 1

    def slot(self) -> int:
        self.slots += 1
        self.most = max(self.most, self.slots)
        return self.slots - 1

    def cut(self, steps: Sequence[HostStep], at: int) -> int:
        """Adds steps from a block on; returns the block in which they end, whose own end is open."""
        counters = self.blocks[at].counters
        for step in steps:
            if not calls((step,)):
                self.blocks[at].steps.append(step)
                continue
            match step:
                case HostCall():
                    back = self.block(counters, step)
                    self.blocks[at].end = Enter(step, back)
                    at = back
                case HostIf():
                    sides = [self.block(counters), self.block(counters)]
                    self.blocks[at].end = Decide(step.condition, sides[0], sides[1])
                    ends = [self.cut(part, side) for part, side in zip((step.then, step.orelse), sides, strict=True)]
                    at = self.block(counters)
                    for end in ends:
                        self.blocks[end].end = Go(at)
                case HostLoop():
                    counter, limit = self.slot(), self.slot() if step.limit else 0
                    inside = {**counters, step.counter: counter}
                    head, body = self.block(counters), self.block(inside)
                    self.blocks[at].end = Start(step, counter, limit, head)
                    self.blocks[self.cut(step.body, body)].end = Next(counter, head)
                    at = self.block(counters)
                    self.blocks[head].end = Trip(step, counter, limit, body, at)
        return at
