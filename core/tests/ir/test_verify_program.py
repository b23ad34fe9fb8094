# ruff: noqa: E501  (the tables have one case per line)
"""Every law of programs, each with a program that breaks it: a barrier, a wait or a lifetime dropped is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from core.tests.ir import samples
from core.tests.ir.samples import SIZE, TASKS, value
from core.tests.ir.test_verify_module import refused
from tilewright.device import load_device
from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import Expr, Load, Var, apply, cast, const
from tilewright.ir.group import Group
from tilewright.ir.ops import Access, TensorOp, Write
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Buffer,
    Envelope,
    GridControl,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    Item,
    Kernel,
    Lane,
    Launch,
    Phase,
    Placement,
    Program,
    Signal,
    Storage,
    Task,
    Wait,
)
from tilewright.ir.verify import clocks, flow, ordering, phases, program, storage, unroll, verify_program
from tilewright.ir.verify.choice import DEVICE

LAUNCHES, PHASES, EVENTS = (samples.program(kind) for kind in ("launches", "phases", "events"))
H200 = load_device("h200")
U = Var(UNIT)


@pytest.mark.parametrize("kind", ["launches", "phases", "events"])
def test_the_samples_keep_all_laws(kind: str) -> None:
    verify_program(samples.program(kind), H200)


def with_storage(
    base: Program, placements: dict[str, dict[str, Any]] | None = None, buffers: dict[str, dict[str, Any]] | None = None
) -> Program:
    """The program with fields of some placements and buffers changed."""
    old = base.storage
    made = {n: attrs.evolve(p, **(placements or {}).get(n, {})) for n, p in old.placements.items()}
    held = {n: attrs.evolve(b, **(buffers or {}).get(n, {})) for n, b in old.buffers.items()}
    return attrs.evolve(base, storage=Storage(held, made))


def without_placement(base: Program, name: str) -> Program:
    rest = {n: p for n, p in base.storage.placements.items() if n != name}
    return attrs.evolve(base, storage=Storage(base.storage.buffers, rest))


def items(base: Program) -> tuple[Item, ...]:
    (launch,) = base.body
    assert isinstance(launch, Launch)
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    return phase.lanes[0].items


def one_phase(*found: Item, base: Program = EVENTS, units: int | Expr = TASKS) -> Program:
    """The program with one launch of one phase of one lane."""
    lane = Lane(0, units if isinstance(units, Expr) else const(units), found)
    return attrs.evolve(base, body=(Launch("all", Envelope(TASKS, 32, cooperative=True), (Phase((lane,)),), samples.EVENTS),))


def lanes(*found: Lane, base: Program = EVENTS) -> Program:
    return attrs.evolve(base, body=(Launch("all", Envelope(TASKS, 32, cooperative=True), (Phase(found),), samples.EVENTS),))


def with_body(base: Program, *parts: Phase | GridControl) -> Program:
    return attrs.evolve(base, body=(Launch("all", Envelope(TASKS, 32, cooperative=True), parts, samples.EVENTS),))


def launch(name: str, *found: Item, label: str = "") -> Launch:
    return Launch(label or name, Envelope(TASKS, 32), (Phase((Lane(0, const(TASKS), found),)),))


DOUBLE, TRIPLE, FIVE = (x for x in items(EVENTS) if isinstance(x, Task))
signal0, wait0, signal1, wait1 = (x for x in items(EVENTS) if not isinstance(x, Task))
assert isinstance(wait0, Wait)
ONE, TWO, THREE = LAUNCHES.body
phase1, phase2, phase3 = PHASES.body[0].body  # type: ignore[union-attr]


def with_kernel(name: str, **changes: Any) -> Program:
    return attrs.evolve(LAUNCHES, kernels={**LAUNCHES.kernels, name: attrs.evolve(LAUNCHES.kernels[name], **changes)})


def needing(**changes: Any) -> Program:
    chosen = LAUNCHES.kernels["double"].choice
    return with_kernel("double", choice=attrs.evolve(chosen, resources=attrs.evolve(chosen.resources, **changes)))


def with_task(**changes: Any) -> Program:
    return attrs.evolve(LAUNCHES, body=(launch("double", attrs.evolve(DOUBLE, **changes)), TWO, THREE))


GENERAL: dict[str, tuple[Callable[[], Program], str, str]] = {
    "kernel under another name": (lambda: attrs.evolve(LAUNCHES, kernels={**LAUNCHES.kernels, "k": LAUNCHES.kernels["double"]}), program.PARAMS, "kernel k"),
    "parameters without the outputs": (lambda: with_kernel("double", params=LAUNCHES.kernels["double"].params[::-1]), program.PARAMS, "kernel double"),
    "parameter that is not read": (lambda: with_kernel("double", params=(value("q", "float32", [4]), *LAUNCHES.kernels["double"].params)), program.PARAMS, "'q'"),
    "task of no kernel": (lambda: with_task(kernel="other"), program.CALLS, "launch double"),
    "task with a value too few": (lambda: with_task(args=("x",)), program.CALLS, "launch double"),
    "task on a value of another size": (lambda: with_storage(LAUNCHES, {"t": {"value": value("t", "float32", [8])}}), program.CALLS, "parameter 't'"),
    "task on a value of another dtype": (lambda: with_storage(LAUNCHES, {"t": {"value": value("t", "int32", [SIZE])}}), program.CALLS, "parameter 't'"),
    "two launches of one name": (lambda: attrs.evolve(LAUNCHES, body=(ONE, attrs.evolve(TWO, name="double"), THREE)), program.NAMES, "launch double"),
    "input written": (lambda: attrs.evolve(LAUNCHES, body=(launch("double", attrs.evolve(DOUBLE, args=("t", "x"))), TWO, THREE)), program.CONSTANT, "'x'"),
    "input copied into": (lambda: attrs.evolve(LAUNCHES, body=(ONE, TWO, THREE, HostCopy("y", "x")), storage=with_storage(LAUNCHES, {n: {"last": 3} for n in "xyut"}).storage), program.CONSTANT, "'x'"),
    "output never written": (lambda: attrs.evolve(LAUNCHES, body=(ONE, TWO)), flow.WRITTEN, "output 'y'"),
    "read before it is written": (lambda: attrs.evolve(with_storage(LAUNCHES, {n: {"first": 0, "last": 2} for n in "tu"}), body=(TWO, ONE, THREE)), flow.WRITTEN, "'t'"),
    "task left out": (lambda: attrs.evolve(LAUNCHES, body=(attrs.evolve(ONE, body=(Phase((Lane(0, const(TASKS - 1), (DOUBLE,)),)),)), TWO, THREE)), phases.TASKS, "task 3"),
    "task that is not there": (lambda: with_task(first=U + 1), phases.TASKS, "runs task 4, it has 4"),
    "task run twice": (lambda: with_task(first=U // 2), ordering.LAW, "task 0 of double runs on units 0 and 1"),
    "strided beyond the end": (lambda: with_task(first=U, count=const(2), stride=const(TASKS)), phases.TASKS, "launch double"),
    "unit outside of the envelope": (lambda: attrs.evolve(LAUNCHES, body=(attrs.evolve(ONE, envelope=Envelope(2, 32)), TWO, THREE)), phases.LANES, "lane 0"),
    "unit in two lanes": (lambda: lanes(Lane(0, const(TASKS), (DOUBLE,)), Lane(3, const(1), (TRIPLE,))), phases.LANES, "unit 3"),
    "more threads than the envelope": (lambda: needing(threads=64), program.ENVELOPE, "double needs 64 threads"),
    "more shared memory than the envelope": (lambda: needing(shared_bytes=64), program.ENVELOPE, "64 shared bytes"),
    "kernel beyond the device": (lambda: needing(threads=2048), DEVICE, "kernel double"),
    "envelope beyond the device": (lambda: attrs.evolve(LAUNCHES, body=(attrs.evolve(ONE, envelope=Envelope(TASKS, 2048)), TWO, THREE)), program.ENVELOPE, "2048 threads"),
    "phases without residency": (lambda: attrs.evolve(PHASES, body=(attrs.evolve(PHASES.body[0], envelope=Envelope(TASKS, 32)),)), program.RESIDENT, "launch all"),
    "waits without residency": (lambda: attrs.evolve(EVENTS, body=(attrs.evolve(EVENTS.body[0], envelope=Envelope(TASKS, 32)),)), program.RESIDENT, "launch all"),
    "more units than are resident": (lambda: attrs.evolve(PHASES, body=(attrs.evolve(PHASES.body[0], envelope=Envelope(132 * 64 + 1, 32, cooperative=True)),)), program.RESIDENT, "h200"),
}  # fmt: skip


@pytest.mark.parametrize("case", GENERAL)
def test_broken_programs_are_refused(case: str) -> None:
    make, law, place = GENERAL[case]
    refused(lambda: verify_program(make(), H200), law, place, "program")


def test_units_wait_only_where_the_device_promises_that_they_are_at_work_at_once() -> None:
    one = attrs.evolve(H200, cooperative=False)
    refused(lambda: verify_program(PHASES, one), program.RESIDENT, "h200 does not promise", "program")
    verify_program(LAUNCHES, one)


BYTES = 4 * SIZE
STORAGE: dict[str, tuple[Callable[[], Program], str, str]] = {
    "no placement": (lambda: without_placement(LAUNCHES, "t"), storage.PLACED, "value t"),
    "placement of another value": (lambda: with_storage(LAUNCHES, {"t": {"value": value("q", "float32", [SIZE])}}), storage.PLACED, "value t"),
    "no buffer": (lambda: with_storage(LAUNCHES, {"t": {"buffer": "other"}}), storage.PLACED, "'other'"),
    "beyond the buffer": (lambda: with_storage(LAUNCHES, {"u": {"offset": BYTES + 4}}), storage.PLACED, "value u"),
    "before the buffer": (lambda: with_storage(LAUNCHES, {"t": {"offset": -4}}), storage.PLACED, "value t"),
    "too few bytes": (lambda: with_storage(LAUNCHES, {"u": {"bytes": BYTES - 4}}), storage.PLACED, "needs up to 64"),
    "same bytes while both live": (lambda: with_storage(LAUNCHES, {"u": {"offset": 0}}), storage.OVERLAP, "buffer work"),
    "one byte shared": (lambda: with_storage(LAUNCHES, {"u": {"offset": BYTES - 1}}), storage.OVERLAP, "share byte 63"),
    "lifetime that ends too early": (lambda: with_storage(LAUNCHES, {"t": {"last": 0}}), storage.LIVE, "value t"),
    "lifetime that begins too late": (lambda: with_storage(LAUNCHES, {"t": {"first": 1}}), storage.LIVE, "value t"),
    "a launch's buffer read by the next": (lambda: with_storage(LAUNCHES, buffers={"work": {"owner": "launch"}}), storage.OWNED, "value t"),
}  # fmt: skip


@pytest.mark.parametrize("case", STORAGE)
def test_broken_storage_is_refused(case: str) -> None:
    make, law, place = STORAGE[case]
    refused(lambda: verify_program(make()), law, place, "program, storage")


def test_dead_values_may_share_bytes() -> None:
    three = attrs.evolve(
        LAUNCHES,
        body=(
            ONE,
            TWO,
            launch("five", attrs.evolve(FIVE, args=("u", "v"))),
            launch("last", attrs.evolve(FIVE, args=("v", "y")), label="last"),
        ),
    )
    v = Placement(value("v", "float32", [SIZE]), "work", 0, BYTES, 2, 3)
    held = Storage(three.storage.buffers, {**three.storage.placements, "v": v})
    held = with_storage(attrs.evolve(three, storage=held), {"x": {"last": 3}, "y": {"last": 3}}).storage
    verify_program(attrs.evolve(three, storage=held))


def in_place(allowed: bool) -> Program:
    """`u` in the bytes of `t`."""
    old = LAUNCHES.kernels["triple"]
    op = attrs.evolve(old.group.ops[0], inplace="t" if allowed else "")
    kernel = attrs.evolve(old, group=attrs.evolve(old.group, ops=(op,)))
    base = attrs.evolve(LAUNCHES, kernels={**LAUNCHES.kernels, "triple": kernel})
    return with_storage(base, {"u": {"offset": 0}})


def test_a_result_may_stand_in_an_operand_only_if_the_operator_says_so() -> None:
    verify_program(in_place(True))
    refused(lambda: verify_program(in_place(False)), storage.OVERLAP)


TRIPS = 5


def ring(wait_target: Expr, trips: int = TRIPS) -> Program:
    """`t = 2x; u = 3t` over and over with a software barrier after each of the two, then `y = 5u`."""
    twice = Var("trip") * 2
    body: tuple[Item, ...] = (
        DOUBLE,
        Signal("ring", const(0)),
        Wait("ring", const(0), (twice + 1) * wait_target),
        TRIPLE,
        Signal("ring", const(0)),
        Wait("ring", const(0), (twice + 2) * wait_target),
    )
    return one_phase(BlockControl("trip", const(trips), "", body), FIVE)


def pipeline(slots: int) -> Program:
    """Unit 0 makes `t`, unit 1 reads it, five times; with one slot the producer does not wait for the consumer."""
    trip = Var("trip")
    everything = {"first": const(0), "count": const(TASKS)}
    produce = attrs.evolve(DOUBLE, **everything)
    consume = attrs.evolve(TRIPLE, **everything)
    made = (Wait("free", const(0), trip), produce, Signal("full", const(0)))
    used = (Wait("full", const(0), trip + 1), consume, Signal("free", const(0)))
    if not slots:
        made = made[1:]
    return lanes(
        Lane(0, const(1), (BlockControl("trip", const(TRIPS), "", made),)),
        Lane(1, const(1), (BlockControl("trip", const(TRIPS), "", used), attrs.evolve(FIVE, **everything))),
    )


def condition_program(*parts: Phase | GridControl, owner: str = "program", dtype: str = "bool") -> Program:
    """A program with a kernel `judge` that writes the scalar `go` from `x`, beside the others."""
    x, go = value("x", "float32", [SIZE]), value("go", dtype, [])
    body: Expr = apply("lt", Load(0, "float32"), const(1.0, "float32"))
    op = TensorOp(
        "judge", (), (Access(x, (const(0),)),), (body if dtype == "bool" else cast(body, dtype),), (Write(go, ()),)
    )
    judge = Kernel("judge", Group("judge", (op,), (go,)), TileChoice("sample", {}, Resources(1, 32)), (x, go))
    made = with_body(attrs.evolve(PHASES, kernels={**PHASES.kernels, "judge": judge}), *parts)
    size = 8
    buffer = Buffer("flags", "workspace", size, owner=owner)  # type: ignore[arg-type]
    place = Placement(go, "flags", 0, size, 0, 0)
    old = made.storage
    return attrs.evolve(made, storage=Storage({**old.buffers, "flags": buffer}, {**old.placements, "go": place}))


JUDGE = Phase((Lane(0, const(1), (Task("judge", ("x", "go"), const(0)),)),))
WORK = (phase1, phase2)
MEET = (Signal("ring", const(0)), Wait("ring", const(0), const(TASKS)))
MEET_EACH_TRIP = (Signal("ring", const(0)), Wait("ring", const(0), (Var("i") + 1) * TASKS))
MEET_AGAIN = (Signal("ring", const(0)), Wait("ring", const(0), const(2 * TASKS)))


def in_turn(first: tuple[Item, ...], second: tuple[Item, ...], *, loop: int = 0) -> Program:
    """`DOUBLE` and `TRIPLE` with something between in each of two phases, or in each trip of a loop; then `FIVE`."""

    def phase(between: tuple[Item, ...]) -> Phase:
        return Phase((Lane(0, const(TASKS), (DOUBLE, *between, TRIPLE)),))

    last = Phase((Lane(0, const(TASKS), (FIVE,)),))
    if loop:
        return with_body(PHASES, GridControl("i", const(loop), "", (phase(first),)), phase(second), last)
    return with_body(PHASES, phase(first), phase(second), last)


def without_buffer(base: Program) -> Program:
    held = {n: b for n, b in base.storage.buffers.items() if b.kind != "event"}
    return attrs.evolve(base, storage=Storage(held, base.storage.placements))


EVENT_LAWS: dict[str, tuple[Callable[[], Program], str, str]] = {
    "event of no launch": (lambda: one_phase(DOUBLE, Signal("other", const(0)), TRIPLE), phases.EVENTS, "'other'"),
    "counter beyond the event": (lambda: one_phase(DOUBLE, Signal("ring", const(1)), Wait("ring", const(1), const(TASKS)), TRIPLE, signal1, wait1, FIVE), phases.EVENTS, "ring[1] of 1"),
    "no event buffer": (lambda: without_buffer(PHASES), phases.EVENTS, "found none"),
    "event buffer too small": (lambda: with_storage(EVENTS, buffers={"all.events": {"bytes": 64}}), phases.EVENTS, "of 64 bytes"),
    "counts of the phase before not counted": (lambda: in_turn(MEET, MEET), ordering.LAW, "'t'"),
    "counted after a long loop": (lambda: in_turn(MEET_EACH_TRIP, MEET_AGAIN, loop=9), phases.EVENTS, "'ring'"),
}  # fmt: skip


@pytest.mark.parametrize("case", EVENT_LAWS)
def test_events_belong_to_their_launch(case: str) -> None:
    make, law, place = EVENT_LAWS[case]
    refused(lambda: verify_program(make()), law, place, "program")


def test_events_are_counted_from_phase_to_phase() -> None:
    verify_program(in_turn(MEET, MEET_AGAIN))
    last = (Signal("done", const(0)), Wait("done", const(0), const(TASKS)))
    verify_program(in_turn(MEET_EACH_TRIP, last, loop=9))


ORDER: dict[str, tuple[Callable[[], Program], str, str]] = {
    "barrier dropped": (lambda: one_phase(DOUBLE, TRIPLE, FIVE), ordering.LAW, "'t'"),
    "second barrier dropped": (lambda: with_body(PHASES, phase1, Phase((Lane(0, const(TASKS), (TRIPLE, FIVE)),))), ordering.LAW, "'u'"),
    "wait dropped": (lambda: one_phase(DOUBLE, signal0, TRIPLE, signal1, wait1, FIVE), ordering.LAW, "'t'"),
    "signal dropped": (lambda: one_phase(DOUBLE, wait0, TRIPLE, signal1, wait1, FIVE), clocks.MET, "done[0] is signalled 0 of 4 times"),
    "wait before the signal": (lambda: one_phase(DOUBLE, wait0, signal0, TRIPLE, signal1, wait1, FIVE), clocks.MET, "done[0] is signalled 0 of 4 times"),
    "wait for one signal too few": (lambda: one_phase(DOUBLE, signal0, attrs.evolve(wait0, target=const(TASKS - 1)), TRIPLE, signal1, wait1, FIVE), ordering.LAW, "'t'"),
    "wait for one signal too many": (lambda: one_phase(DOUBLE, signal0, attrs.evolve(wait0, target=const(TASKS + 1)), TRIPLE, signal1, wait1, FIVE), clocks.MET, "4 of 5"),
    "wait on another event": (lambda: one_phase(DOUBLE, signal0, attrs.evolve(wait0, index=const(1)), TRIPLE, signal1, wait1, FIVE), clocks.MET, "done[1]"),
    "signal before the work": (lambda: one_phase(signal0, DOUBLE, wait0, TRIPLE, signal1, wait1, FIVE), ordering.LAW, "'t'"),
    "back edge of a ring without the second barrier": (lambda: one_phase(BlockControl("trip", const(TRIPS), "", (DOUBLE, Signal("ring", const(0)), Wait("ring", const(0), (Var("trip") + 1) * TASKS), TRIPLE)), FIVE), ordering.LAW, "'t'"),
    "ring that waits for one unit less": (lambda: ring(const(TASKS - 1)), ordering.LAW, "'t'"),
    "ring that waits for one unit more": (lambda: ring(const(TASKS + 1)), clocks.MET, "ring[0]"),
    "producer that does not wait for the consumer": (lambda: pipeline(0), ordering.LAW, "'t'"),
    "two lanes on one value": (lambda: lanes(Lane(0, const(2), (attrs.evolve(DOUBLE, first=U * 2, count=const(2)),)), Lane(2, const(2), (attrs.evolve(TRIPLE, first=(U - 2) * 2, count=const(2)),))), ordering.LAW, "unit"),
    "operand overwritten by its own call": (lambda: with_body(PHASES, phase1, Phase((Lane(0, const(TASKS), (attrs.evolve(TRIPLE, args=("t", "t")),)),)), phase3), ordering.LAW, "over their input 't'"),
    "signal under a condition": (lambda: condition_program(JUDGE, Phase((Lane(0, const(TASKS), (BlockControl("", None, "go", (signal0,)), DOUBLE)),)), phase2, phase3), unroll.BLOCK, "'done'"),
    "barrier under block control": (lambda: one_phase(DOUBLE, BlockControl("i", const(2), "", (phase2,))), unroll.BLOCK, "Phase"),  # type: ignore[arg-type]
    "trip count that depends on the unit": (lambda: with_body(PHASES, GridControl("i", U + 1, "", WORK), phase3), program.UNIFORM, "unit + 1"),
    "condition that is owned by a unit": (lambda: condition_program(JUDGE, GridControl("i", const(3), "go", WORK), phase3, owner="unit"), program.UNIFORM, "owned by a unit"),
    "condition written right after it is read": (lambda: condition_program(JUDGE, *WORK, GridControl("i", const(3), "go", (JUDGE, *WORK)), phase3), program.UNIFORM, "judge writes 'go'"),
    "condition written right after the loop": (lambda: condition_program(JUDGE, *WORK, GridControl("i", const(3), "go", WORK), JUDGE, phase3), program.UNIFORM, "judge writes 'go'"),
    "condition that is no bool": (lambda: condition_program(JUDGE, GridControl("i", const(3), "go", WORK), phase3, dtype="int8"), program.NAMES, "'go'"),
    "condition that is not written": (lambda: condition_program(*WORK, GridControl("i", const(3), "go", WORK), phase3), flow.WRITTEN, "'go'"),
    "value that only one branch writes": (lambda: condition_program(JUDGE, phase1, GridControl("", None, "go", (phase2,)), phase3), flow.WRITTEN, "'u'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDER)
def test_programs_that_are_not_ordered_are_refused(case: str) -> None:
    make, law, place = ORDER[case]
    refused(lambda: verify_program(make()), law, place, "program", "launch all")


ORDERED: dict[str, Callable[[], Program]] = {
    "software barriers in a loop": lambda: ring(const(TASKS)),
    "a producer and a consumer": lambda: pipeline(1),
    "a loop of phases": lambda: with_body(PHASES, GridControl("i", const(3), "", WORK), phase3),
    "a loop of phases on a condition": lambda: condition_program(JUDGE, *WORK, GridControl("i", const(3), "go", (*WORK, JUDGE)), phase3),
    "a branch of phases": lambda: condition_program(JUDGE, phase1, GridControl("", None, "go", (phase2,), (phase2,)), phase3),
    "a unit's own value": lambda: with_storage(one_phase(attrs.evolve(DOUBLE, first=const(0), count=const(TASKS)), attrs.evolve(TRIPLE, first=const(0), count=const(TASKS)), attrs.evolve(FIVE, first=const(0), count=const(TASKS)), units=1), buffers={"work": {"owner": "unit", "level": "shared"}}),
    "tasks in strides": lambda: attrs.evolve(LAUNCHES, body=(attrs.evolve(ONE, body=(Phase((Lane(0, const(2), (attrs.evolve(DOUBLE, count=const(2), stride=const(2)),)),)),)), TWO, THREE)),
    "independent lanes": lambda: with_body(attrs.evolve(PHASES), Phase((Lane(0, const(2), (attrs.evolve(DOUBLE, first=U * 2, count=const(2)),)), Lane(2, const(2), (attrs.evolve(DOUBLE, args=("x", "u"), first=(U - 2) * 2, count=const(2)),)))), phase3),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDERED)
def test_ordered_programs_pass(case: str) -> None:
    verify_program(ORDERED[case]())


def own_part(kernel: Kernel, parameter: int, task: int) -> Sequence[tuple[int, int]]:
    """An element-wise kernel touches the same part of all of its operands."""
    part = SIZE // TASKS
    return [(task * part, (task + 1) * part)]


def test_footprints_make_waits_unnecessary_and_finer() -> None:
    chained = one_phase(DOUBLE, TRIPLE, FIVE)
    verify_program(chained, footprint=own_part)
    shifted = one_phase(DOUBLE, attrs.evolve(TRIPLE, first=(U + 1) % TASKS), FIVE)
    refused(lambda: verify_program(shifted, footprint=own_part), ordering.LAW, "'t'")
    neighbour = one_phase(
        DOUBLE, Signal("t", U), Wait("t", (U + 1) % TASKS, const(1)), attrs.evolve(TRIPLE, first=(U + 1) % TASKS),
        Signal("u", (U + 1) % TASKS), Wait("u", U, const(1)), FIVE,
    )  # fmt: skip
    verify_program(neighbour, footprint=own_part)
    refused(lambda: verify_program(neighbour), ordering.LAW)


def host(*steps: Any, lives: dict[str, tuple[int, int]], last: int) -> Program:
    made = attrs.evolve(LAUNCHES, body=steps)
    spans = {n: lives.get(n, (0, last)) for n in "xytu"}
    return with_storage(made, {n: {"first": a, "last": b} for n, (a, b) in spans.items()})


def test_values_of_a_loop_live_as_long_as_it_needs_them() -> None:
    # steps: 0 double, 1 loop start, 2 triple, 3 five, 4 loop end
    loop = HostLoop("i", const(3), "", (TWO, THREE))
    verify_program(host(ONE, loop, lives={"t": (0, 4), "u": (2, 3)}, last=4))
    brought_in = host(ONE, loop, lives={"t": (0, 3), "u": (2, 3)}, last=4)
    refused(lambda: verify_program(brought_in), storage.LIVE, "value t")
    copied = HostLoop("i", const(3), "", (TWO, THREE, HostCopy("u", "t")))
    verify_program(host(ONE, copied, lives={"t": (0, 5), "u": (2, 4)}, last=5))
    carried = host(copied, lives={"t": (1, 3), "u": (1, 3)}, last=4)
    refused(lambda: verify_program(carried), storage.LIVE, "value t")


def test_a_branch_defines_what_both_sides_write() -> None:
    def branch(*orelse: Launch) -> Program:
        base = condition_program(phase1)
        judge = Launch("judge", Envelope(TASKS, 32), (JUDGE,))
        body = (ONE, judge, HostIf("go", (TWO,), orelse), THREE)
        spans = {n: {"first": 0, "last": 6} for n in ("x", "y", "t", "u", "go")}
        return with_storage(attrs.evolve(base, body=body), spans)

    verify_program(branch(attrs.evolve(TWO, name="again")))
    refused(lambda: verify_program(branch()), flow.WRITTEN, "'u'")


def test_many_units_are_checked_quickly() -> None:
    """A hundred thousand blocks without events, and a persistent launch of an H200 with software barriers."""
    many = samples.kernel("double", "x", "t", 2)
    tasks = 100_000
    chosen = attrs.evolve(many.choice, resources=attrs.evolve(many.choice.resources, tasks=tasks))
    grid = attrs.evolve(LAUNCHES, kernels={**LAUNCHES.kernels, "double": attrs.evolve(many, choice=chosen)})
    wide = Launch("double", Envelope(tasks, 32), (Phase((Lane(0, const(tasks), (DOUBLE,)),)),))
    start = time.process_time()
    verify_program(attrs.evolve(grid, body=(wide, TWO, THREE)))
    assert time.process_time() - start < 1.0

    units = 132
    kernels = {}
    for name, kernel in EVENTS.kernels.items():
        wider = attrs.evolve(kernel.choice, resources=attrs.evolve(kernel.choice.resources, tasks=units))
        kernels[name] = attrs.evolve(kernel, choice=wider)
    (phase,) = ring(const(units), 4).body[0].body  # type: ignore[union-attr]
    lane = attrs.evolve(phase.lanes[0], units=const(units))  # type: ignore[union-attr]
    envelope = Envelope(units, 32, cooperative=True)
    start = time.process_time()
    verify_program(attrs.evolve(EVENTS, kernels=kernels, body=(Launch("all", envelope, (Phase((lane,)),), samples.EVENTS),)))
    assert time.process_time() - start < 20.0


def test_what_the_host_copies_and_sets_stays_in_its_place() -> None:
    lives = {"t": (0, 6), "u": (0, 6)}
    rows = HostLoop("i", const(3), "", (TWO, HostCopy("u", "t", Var("i"))))
    refused(lambda: verify_program(host(ONE, rows, THREE, lives=lives, last=6)), program.COPIES, "'t'")
    endless = HostLoop("i", None, "", (TWO, HostCopy("u", "t", Var("i"))), "t")
    refused(lambda: verify_program(host(ONE, endless, THREE, lives=lives, last=6)), program.SCALARS, "the limit 't'")
    once = HostLoop("i", const(1), "", (TWO, HostCopy("u", "t", Var("i"))))
    verify_program(host(ONE, once, THREE, lives=lives, last=6))
    number = HostSet("t", const(1))
    refused(lambda: verify_program(host(ONE, number, TWO, THREE, lives=lives, last=6)), program.SCALARS, "'t'")
