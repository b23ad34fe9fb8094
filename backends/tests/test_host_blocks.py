"""Blocks run the steps that the host tree and its procedures say, in the same order, however they are nested."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from tilewright.ir.expr import const
from tilewright.ir.program import HostCall, HostIf, HostLoop, HostSet, HostStep, Procedure
from tilewright_backends.host.blocks import Block, Decide, Enter, Go, Leave, Next, Start, Stop, Trip, blocks_of

MOST = 150
"""Steps after which a run is cut off."""


def leaf(name: str) -> HostSet:
    return HostSet(name, const(0))


class Writer:
    """Random host trees; every leaf, condition and counter has a name of its own."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0

    def fresh(self, hint: str) -> str:
        self.names += 1
        return f"{hint}{self.names}"

    def steps(self, depth: int) -> tuple[HostStep, ...]:
        return tuple(self.step(depth) for _ in range(self.random.randint(0, 3)))

    def step(self, depth: int) -> HostStep:
        match self.random.choice(["leaf", "call", *(["if", "loop"] if depth < 3 else [])]):
            case "call":
                return HostCall(self.random.choice("pq"), (), ())
            case "if":
                return HostIf(self.fresh("c"), self.steps(depth + 1), self.steps(depth + 1))
            case "loop":
                trip = const(self.random.randint(0, 3)) if self.random.random() < 0.5 else None
                condition = self.fresh("c") if trip is None or self.random.random() < 0.5 else ""
                return HostLoop(self.fresh("i"), trip, condition, self.steps(depth + 1))
            case _:
                return leaf(self.fresh("s"))


class World:
    """What conditions answer, and what was done, with the counters of the loops around it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.trace: list[tuple[str, tuple[tuple[str, int], ...]]] = []

    def holds(self, condition: str) -> bool:
        return self.random.random() < 0.5

    def did(self, name: str, counters: Mapping[str, int]) -> None:
        self.trace.append((name, tuple(sorted(counters.items()))))
        if len(self.trace) >= MOST:
            raise StopIteration


def directly(
    steps: Sequence[HostStep], procedures: Mapping[str, Procedure], world: World, env: Mapping[str, int]
) -> None:
    """The meaning of a host tree, by Python's own calls."""
    for step in steps:
        match step:
            case HostSet():
                world.did(step.target, env)
            case HostCall():
                world.did(f"call {step.procedure}", env)
                directly(procedures[step.procedure].body, procedures, world, {})
                world.did(f"back from {step.procedure}", env)
            case HostIf():
                directly(step.then if world.holds(step.condition) else step.orelse, procedures, world, env)
            case HostLoop():
                trip = 0
                while (step.trip is None or trip < step.trip.value) and (  # type: ignore[attr-defined]
                    not step.condition or world.holds(step.condition)
                ):
                    directly(step.body, procedures, world, {**env, step.counter: trip})
                    trip += 1


def by_blocks(steps: Sequence[HostStep], procedures: Mapping[str, Procedure], world: World) -> None:
    """The same by blocks and a stack of numbers."""
    blocks = blocks_of(steps, procedures.values())
    stack = [[0] * blocks.slots]
    at = 0
    while True:
        block: Block = blocks.blocks[at]
        top = stack[-1]
        env = {name: top[slot] for name, slot in block.counters.items()}
        if block.returned is not None:
            world.did(f"back from {block.returned.procedure}", env)
        directly(block.steps, procedures, world, env)
        match block.end:
            case Go(to):
                at = to
            case Decide(condition, then, orelse):
                at = then if world.holds(condition) else orelse
            case Start(_, counter, _, head):
                top[counter] = 0
                at = head
            case Trip(loop, counter, _, body, after):
                more = loop.trip is None or top[counter] < loop.trip.value  # type: ignore[attr-defined]
                at = body if more and (not loop.condition or world.holds(loop.condition)) else after
            case Next(counter, head):
                top[counter] += 1
                at = head
            case Enter(call, back):
                world.did(f"call {call.procedure}", env)
                stack.append([back, *[-1] * (blocks.slots - 1)])
                at = blocks.entries[call.procedure]
            case Leave():
                at = stack.pop()[0]
            case Stop():
                return


@given(st.integers(0, 10**6))
def test_blocks_do_what_the_tree_says(seed: int) -> None:
    writer = Writer(seed)
    procedures = {name: Procedure(name, (), writer.steps(1), ()) for name in "pq"}
    main = writer.steps(0)
    worlds = World(seed), World(seed)
    for run in (lambda: directly(main, procedures, worlds[0], {}), lambda: by_blocks(main, procedures, worlds[1])):
        with suppress(StopIteration):
            run()
    assert worlds[0].trace == worlds[1].trace


def test_a_call_keeps_slots_only_for_loops_with_calls_inside() -> None:
    quiet = HostLoop("i", const(3), "", (leaf("a"),))
    calling = HostLoop("j", const(3), "", (HostLoop("k", None, "c", (HostCall("p", (), ()),), "n"),))
    assert blocks_of((quiet,), ()).slots == 1
    assert blocks_of((quiet, calling), [Procedure("p", (), (quiet,), ())]).slots == 1 + 1 + 2
