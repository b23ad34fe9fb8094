# ruff: noqa: E501  (the table has one case per line)
"""The laws of procedures and frames: what breaks one is refused, and goes wrong on poisoned storage where it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import attrs
import numpy as np
import pytest

from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.compiler import plan_module
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.errors import VerifyError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.interpret.task import run_tasks
from tilewright.ir.program import HostCall, HostCopy, HostIf, HostStep, Program, Storage
from tilewright.ir.verify import flow, frames, program, storage, verify_program
from tilewright.ir.verify.tree import call_sites
from tilewright.plugins.manager import Registry

INT, ROW = ("int64", ()), ("float32", (4,))
FEEDS = [np.asarray(4), np.arange(4, dtype=np.float32) / 2 + 1]


@cache
def base() -> Program:
    """`f(n, x, same) = f(n-1, 2x, same) · x + f(n-2, x, same) + same`, which the entry calls between two uses of a value."""
    m = ModuleBuilder()

    @m.function([INT, ROW, ROW], [ROW])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor, same: Tensor) -> Any:
        def deeper() -> Any:
            first = b.call(f, b.op("Sub", n, 1), b.op("Mul", x, 2.0), same)
            second = b.call(f, b.op("Sub", n, 2), x, same)
            return b.op("Add", b.op("Add", b.op("Mul", first, x), second), same)

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        total = b.op("ReduceSum", x, np.asarray([0]), keepdims=1)
        return b.op("Div", b.call(f, n, x, b.op("Neg", x)), total)

    return plan_module(m.build(), bind(Config(target="cpu"), Registry())).program


def wanted(n: int, x: Any, same: Any) -> Any:
    return x if n <= 0 else wanted(n - 1, 2 * x, same) * x + wanted(n - 2, x, same) + same


def right(made: Program) -> bool:
    x = FEEDS[1].astype(np.float64)
    with np.errstate(all="ignore"):
        (found,) = run_tasks(made, FEEDS)
    return bool(np.allclose(found, wanted(4, x, -x) / x.sum(), rtol=1e-5))


def placed(**changes: dict[str, Any]) -> Program:
    """The program with fields of some placements changed."""
    old = base().storage
    made = {n: attrs.evolve(p, **changes.get(n, {})) for n, p in old.placements.items()}
    return attrs.evolve(base(), storage=Storage(old.buffers, made))


def swapped(of: Callable[[HostStep], Sequence[HostStep]]) -> Program:
    """The program with other steps in the place of each step."""

    def every(steps: Sequence[HostStep]) -> tuple[HostStep, ...]:
        found: list[HostStep] = []
        for step in steps:
            if isinstance(step, HostIf):
                step = attrs.evolve(step, then=every(step.then), orelse=every(step.orelse))
            found += of(step)
        return tuple(found)

    made = base()
    procedures = {n: attrs.evolve(p, body=every(p.body)) for n, p in made.procedures.items()}
    return attrs.evolve(made, body=every(made.body), procedures=procedures)


def called(**changes: Any) -> Program:
    """The program with fields of every call changed."""
    return swapped(lambda step: [attrs.evolve(step, **changes) if isinstance(step, HostCall) else step])


F = base().procedures["f"]
SITES = call_sites(base())
FIRST, SECOND = (x.step for x in SITES if x.procedure == "f")
PLACES = base().storage.placements


CROSSING = next(n for n, p in PLACES.items() if p.first == FIRST and p.last > SECOND and p.buffer == "frames")
X = F.params[1]
TOTAL = next(n for n, p in PLACES.items() if p.buffer == "workspace" and p.first < SITES[0].step < p.last)
SHARED = SITES[0].call.reads[0]
INNER = next(n for n, p in PLACES.items() if p.buffer == "workspace" and FIRST - 2 <= p.first < p.last == FIRST)
RESULT = F.results[0]
FREE = {"buffer": "workspace", "offset": PLACES[INNER].offset}

CASES: dict[str, tuple[Callable[[], Program], str, bool]] = {
    "a result of a call in bytes that the next call writes": (lambda: placed(**{CROSSING: FREE}), frames.ACROSS, True),
    "a value that dies before the call that it is needed after": (lambda: placed(**{CROSSING: {"last": SECOND - 1}}), storage.LIVE, True),
    "a parameter that dies before the call": (lambda: placed(**{X: {"last": FIRST}}), storage.LIVE, True),
    "two values of a frame in the same bytes": (lambda: placed(**{CROSSING: {"offset": PLACES[X].offset}}), storage.OVERLAP, True),
    "a parameter outside of the frame": (lambda: placed(**{X: {"buffer": "workspace", "offset": 0}}), frames.FRAME, True),
    "a result outside of the frame": (lambda: placed(**{RESULT: {"buffer": "workspace", "offset": 0}}), frames.FRAME, False),
    "a value of the host in a frame": (lambda: placed(**{TOTAL: {"buffer": "frames", "offset": 0}}), frames.FRAME, False),
    "a value of the host where a call writes": (lambda: placed(**{TOTAL: {"offset": PLACES[INNER].offset}}), frames.ACROSS, True),
    "a shared value where a call writes": (lambda: placed(**{SHARED: {"offset": PLACES[INNER].offset}}), frames.ACROSS, True),
    "a read of the host's value that calls do not say": (lambda: called(reads=()), frames.OWN, False),
    "a value of the host that a procedure writes": (lambda: attrs.evolve(base(), procedures={"f": attrs.evolve(F, params=(F.params[0], SHARED))}), frames.OWN, False),
    "a value that lives beyond its procedure": (lambda: placed(**{X: {"first": 0}}), frames.OWN, False),
    "a call of nothing": (lambda: called(procedure="g"), program.CALL, False),
    "an argument too few": (lambda: swapped(lambda s: [attrs.evolve(s, args=s.args[:1]) if isinstance(s, HostCall) else s]), program.CALL, False),
    "an argument of another type": (lambda: swapped(lambda s: [attrs.evolve(s, args=s.args[::-1]) if isinstance(s, HostCall) else s]), program.CALL, False),
    "no room for any call": (lambda: attrs.evolve(base(), depth=0), program.CALL, False),
    "a result that a branch does not write": (lambda: swapped(lambda s: [attrs.evolve(s, orelse=(HostCopy(X, X),))] if isinstance(s, HostIf) else [s]), flow.WRITTEN, False),
    "a result too many": (lambda: called(results=(CROSSING, CROSSING)), program.CALL, False),
}  # fmt: skip


def test_the_program_keeps_the_laws_and_is_right() -> None:
    verify_program(base())
    assert right(base())
    assert {len(x.call.args) for x in SITES} == {2}, "what is the same in every call is not passed"


@pytest.mark.parametrize("case", CASES)
def test_what_breaks_a_law_is_refused(case: str) -> None:
    make, law, wrong = CASES[case]
    made = make()
    with pytest.raises(VerifyError) as caught:
        verify_program(made)
    assert f"Law: {law}." in str(caught.value)
    if wrong:
        assert not right(made)
