"""Laws of programs: kernels, their arguments, envelopes, control. Storage, phases and ordering have their own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tilewright.ir import dtypes
from tilewright.ir.bounds import INFINITY, Interval, bounds_of
from tilewright.ir.events import event_bytes
from tilewright.ir.expr import variables
from tilewright.ir.ops import Value
from tilewright.ir.program import (
    UNIT,
    Copy,
    Fork,
    GridCall,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Launch,
    Part,
    Phase,
    Procedure,
    Program,
    Set,
    Task,
    Wait,
    every_call,
    launches,
)
from tilewright.ir.verify.calls import check_calls, check_haste, reached
from tilewright.ir.verify.choice import check_resources
from tilewright.ir.verify.flow import WRITTEN
from tilewright.ir.verify.forks import check_fork, check_subgrids
from tilewright.ir.verify.graphs import check_graphs
from tilewright.ir.verify.groups import check_group
from tilewright.ir.verify.laws import Place, show, show_value
from tilewright.ir.verify.near import Held, check_control
from tilewright.ir.verify.ordering import Footprint, accesses, same_bytes, whole
from tilewright.ir.verify.phases import EVENTS, Run, run_phase, signalled
from tilewright.ir.verify.storage import check_storage
from tilewright.ir.verify.tree import controls_of, decides, first_phases, leaves, tasks_of, touches, work_of
from tilewright.ir.verify.turns import Used, check_turns
from tilewright.ir.verify.unroll import TRIPS, call_of, number

if TYPE_CHECKING:
    from tilewright.device import DeviceModel

PARAMS = (
    "a kernel's parameters are what it reads, among it what was packed, then the outputs of its group; its slices are "
    "of parameters that it reads"
)
CALLS = "a task names a kernel and one value per parameter, of the parameter's dtype and number of elements"
ENVELOPE = "the envelope is within the device and has room for the kernels that run in it"
RESIDENT = "units that wait for each other (by barrier or event) are resident at once: a cooperative launch that fits"
UNIFORM = (
    "what units decide by is the same for all: not owned by a unit, nor written while some unit may still read it"
)
CONSTANT = "inputs and weights are never written"
COPIES = "a copy has the dtype and the number of elements of its target, or stays inside it"
CALL = (
    "a call names a procedure, with an argument per parameter and a place of its own per result, of their dtypes and "
    "numbers of elements; a program with procedures says how many calls may be active"
)
SCALARS = "single integers and bools are set; a loop's limit is a single int64"
CONTROL = (
    "a loop has a counter and ends by a number of trips, a limit or a condition; a branch has a condition and two sides"
)
NAMES = "launches have names of their own; a condition names a single bool"


def verify_program(program: Program, device: DeviceModel | None = None, footprint: Footprint = whole) -> None:
    """Raises VerifyError, naming law and place, unless the program keeps the laws of the fourth form.

    Args:
        device: what envelopes must fit into.
        footprint: which elements of its parameters a task touches; without it, possibly all of them.
    """
    place = Place("program")
    symbols = {x.name: x.interval for x in program.symbols}
    for name, kernel in program.kernels.items():
        there = place.at(f"kernel {name}")
        check_group(kernel.group, symbols, there)
        _check_params(name, program, there)
        if device is not None:
            check_resources(kernel.choice.resources, device, there)
    for launch in launches(program.steps):
        for task in tasks_of(launch.body):
            _check_call(task, program, place.at(f"launch {launch.name}"))
    for name, procedure in program.procedures.items():
        for task in tasks_of(procedure.parts):
            _check_call(task, program, place.at(f"procedure {name}"))
    for call in every_call((*program.steps, *program.parts)):
        _check_signature(call, program, place.at(f"call {call.procedure}"))
    check_calls(program, place)
    check_storage(program, symbols, place)
    check_subgrids(program, touches(program), place)
    check_graphs(program, device, place)
    checker = _Checker(program, device, footprint)
    env = {name: x.high for name, x in symbols.items()}
    written = checker.steps(program.body, checker.constant, env, place)
    cut = {v.name for n, v in zip(program.output_names, program.outputs, strict=False) if n in program.lengths}
    for output in program.outputs:
        # Of an output that has a length no more need be written than that.
        if output.name not in (checker.ever if output.name in cut else written):
            raise place.broken(WRITTEN, f"output {output.name!r} is never written")
    _check_procedures(program, checker, env, place)


def _check_procedures(program: Program, checker: _Checker, env: Mapping[str, int], place: Place) -> None:
    if bool(program.procedures) != (program.depth > 0):
        raise place.broken(CALL, f"{len(program.procedures)} procedures, of which {program.depth} calls may be active")
    read: dict[str, set[str]] = {}
    for call in every_call((*program.steps, *program.parts)):
        read.setdefault(call.procedure, set()).update(call.reads)
    for name, procedure in program.procedures.items():
        there = place.at(f"procedure {name}")
        if procedure.name != name or len(set(procedure.params)) < len(procedure.params):
            raise there.broken(CALL, f"procedure {procedure.name!r} takes {', '.join(procedure.params)}")
        given = checker.constant | {*procedure.params, *read.get(name, ())}
        if procedure.parts:
            written = checker.procedure(procedure, given, env, there)
        else:
            written = checker.steps(procedure.host, given, env, there)
        for result in procedure.results:
            if result not in written:
                raise there.broken(WRITTEN, f"result {result!r} is never written")


def _check_params(name: str, program: Program, place: Place) -> None:
    kernel = program.kernels[name]
    outputs = kernel.group.outputs
    if kernel.name != name or not outputs or kernel.params[-len(outputs) :] != outputs:
        found = f"parameters {[x.name for x in kernel.params]}, outputs {[x.name for x in outputs]}"
        raise place.broken(PARAMS, found)
    reads = range(len(kernel.params) - len(outputs))
    if len(kernel.sliced) != len(kernel.choice.slices) or not set(kernel.sliced) <= set(reads):
        raise place.broken(PARAMS, f"{len(kernel.choice.slices)} slices of parameters {kernel.sliced}")
    known = {*kernel.group.inputs, *(x for _, x in kernel.packed)}
    for value in kernel.params[: -len(outputs)]:
        if value not in known:
            raise place.broken(PARAMS, f"{value.name!r} is neither an input of its group nor packed")


def _check_call(task: Task, program: Program, place: Place) -> None:
    kernel = program.kernels.get(task.kernel)
    if kernel is None or len(task.args) != len(kernel.params):
        raise place.broken(CALLS, f"{task.kernel!r} with {len(task.args)} values")
    for name, param in zip(task.args, kernel.params, strict=True):
        found = program.storage.placements.get(name)
        if found is None:
            continue  # refused by the laws of storage
        same_size = found.value.shape == param.shape or found.value.num_elements() == param.num_elements()
        if found.value.dtype != param.dtype or not same_size:
            what = f"{show_value(found.value)} for {show_value(param)}"
            raise place.broken(CALLS, f"{name!r} as parameter {param.name!r} of {kernel.name} is {what}")


def _check_signature(call: HostCall | GridCall, program: Program, place: Place) -> None:
    procedure = program.procedures.get(call.procedure)
    if procedure is None:
        raise place.broken(CALL, f"there is no procedure {call.procedure!r}")
    for what, given, wanted in (("argument", call.args, procedure.params), ("result", call.results, procedure.results)):
        if len(given) != len(wanted):
            raise place.broken(CALL, f"{len(given)} {what}s for {len(wanted)}")
    if len(set(call.results)) < len(call.results):
        raise place.broken(CALL, f"results {', '.join(call.results)}")


class _Checker:
    """Walks the host tree with the set of values that are written by then."""

    def __init__(self, program: Program, device: DeviceModel | None, footprint: Footprint) -> None:
        kinds = {name: buffer.kind for name, buffer in program.storage.buffers.items()}
        given = (name for name, p in program.storage.placements.items() if kinds.get(p.buffer) in ("input", "weight"))
        self.constant = frozenset({x.name for x in program.inputs} | set(given))
        self._program = program
        self._device = device
        self._footprint = footprint
        self._names: set[str] = set()
        self._bounds = {x.name: x.interval for x in program.symbols}
        self.ever: set[str] = set()

    def steps(
        self, steps: Sequence[HostStep], written: frozenset[str], env: Mapping[str, int], place: Place
    ) -> frozenset[str]:
        """Checks the steps in order and returns what is written after them."""
        for step in steps:
            match step:
                case Launch():
                    written = self._launch(step, written, env, place.at(f"launch {step.name}"))
                case HostCopy():
                    self._read(step.source, written, place.at("copy"))
                    self._write(step.target, place.at("copy"))
                    self._check_copy(step, place.at("copy"))
                    written = written | {step.target}
                case HostSet():
                    self._write(step.target, place.at("set"))
                    self._check_set(step, place.at("set"))
                    written = written | {step.target}
                case HostCall():
                    written = self._call(step, written, place.at(f"call {step.procedure}"))
                case HostLoop():
                    there = place.at(f"loop {step.counter}")
                    if step.limit:
                        self._limit(step.limit, written, there)
                    if step.condition:
                        self._condition(step.condition, written, there)
                    trips = INFINITY if step.trip is None else number(step.trip, env)
                    self._bounds[step.counter] = Interval(0, max(trips - 1, 0))
                    inside = self.steps(step.body, written, {**env, step.counter: 0}, there)
                    surely = not step.condition and not step.limit and step.trip is not None and trips > 0
                    written = inside if surely else written
                case HostIf():
                    there = place.at(f"if {step.condition}")
                    self._condition(step.condition, written, there)
                    then = self.steps(step.then, written, env, there.at("then"))
                    written = then & self.steps(step.orelse, written, env, there.at("else"))
        return written

    def _call(self, call: HostCall | GridCall, written: frozenset[str], place: Place) -> frozenset[str]:
        self._check_types(call, place)
        for name in (*call.args, *call.reads):
            self._read(name, written, place)
        for name in call.results:
            self._write(name, place)
        return written | set(call.results)

    def _read(self, name: str, written: frozenset[str], place: Place) -> None:
        if name not in written:
            raise place.broken(WRITTEN, f"{name!r} is read and not written before")

    def _write(self, name: str, place: Place) -> None:
        if name in self.constant:
            raise place.broken(CONSTANT, f"{name!r} is written")
        self.ever.add(name)

    def _check_set(self, step: HostSet | Set, place: Place) -> None:
        value = self._program.storage.placements[step.target].value
        if not self._single(value) or dtypes.is_float(value.dtype):
            raise place.broken(SCALARS, f"{step.target!r} is {show_value(value)}")

    def _check_copy(self, copy: HostCopy | Copy, place: Place) -> None:
        bounds = self._bounds
        placements = self._program.storage.placements
        source, target = placements[copy.source].value, placements[copy.target].value
        fits = source.num_elements() == target.num_elements() or copy.row is not None
        if source.dtype != target.dtype or not fits:
            what = f"{show_value(source)} into {show_value(target)}"
            raise place.broken(COPIES, f"{copy.source!r} to {copy.target!r}: {what}")
        rows = None if copy.row is None else bounds_of(copy.row * source.num_elements() + source.num_elements(), bounds)
        if rows is not None and (rows.high > bounds_of(target.num_elements(), bounds).high or rows.low < 0):
            raise place.broken(COPIES, f"{copy.source!r} goes past the end of {copy.target!r}")

    def _check_types(self, call: HostCall | GridCall, place: Place) -> None:
        placements = self._program.storage.placements
        procedure = self._program.procedures[call.procedure]
        for what, given, wanted in (
            ("argument", call.args, procedure.params),
            ("result", call.results, procedure.results),
        ):
            for a, b in zip(given, wanted, strict=True):
                x, y = placements[a].value, placements[b].value
                if x.dtype != y.dtype or x.num_elements() != y.num_elements():
                    raise place.broken(CALL, f"{what} {a!r} is {show_value(x)} for {show_value(y)}")

    def _limit(self, name: str, written: frozenset[str], place: Place) -> None:
        self._check_limit(name, place)
        self._read(name, written, place)

    def _condition(self, name: str, written: frozenset[str], place: Place) -> None:
        self._check_condition(name, place)
        self._read(name, written, place)

    def _check_limit(self, name: str, place: Place) -> None:
        value = self._program.storage.placements[name].value
        if value.dtype != "int64" or not self._single(value):
            raise place.broken(SCALARS, f"the limit {name!r} is {show_value(value)}")

    def _check_condition(self, name: str, place: Place) -> None:
        value = self._program.storage.placements[name].value
        if value.dtype != "bool" or not self._single(value):
            raise place.broken(NAMES, f"the condition {name!r} is {show_value(value)}")

    def _single(self, value: Value) -> bool:
        """Whether it has one element. A scalar may stand in the place of what it is a view of, of any rank."""
        count = bounds_of(value.num_elements(), self._bounds)
        return count.low == count.high == 1

    def _launch(self, launch: Launch, written: frozenset[str], env: Mapping[str, int], place: Place) -> frozenset[str]:
        if launch.name in self._names:
            raise place.broken(NAMES, f"another launch is called {launch.name!r}")
        self._names.add(launch.name)
        self._check_envelope(launch, place)
        self._check_work(launch.body, place)
        self._check_event_buffer(launch, place)
        run = Run(Held(self._program, launch.envelope))
        written = self._parts(launch.body, launch, written, env, run, place)
        run.check(place)
        check_turns(self._program, run.phases, place)
        return written

    def procedure(
        self, procedure: Procedure, written: frozenset[str], env: Mapping[str, int], place: Place
    ) -> frozenset[str]:
        """Checks what the units of each launch do in a procedure, and returns what is written after it."""
        self._check_work(procedure.parts, place)
        after = written
        for launch in (x for x in launches(self._program.steps) if procedure.name in reached(x.body, self._program)):
            run = Run(Held(self._program, launch.envelope))
            there = place.at(f"launch {launch.name}")
            after = self._parts(procedure.parts, launch, written, env, run, there)
            run.check(there)
        return after

    def _check_work(self, parts: Sequence[Part], place: Place) -> None:
        """What units decide by, copy, set and write."""
        self._check_controls(parts, place)
        for work in work_of(parts):
            what = f"task of {work.kernel}" if isinstance(work, Task) else "copy" if isinstance(work, Copy) else "set"
            there = place.at(what)
            for access in accesses(self._program, work):
                if access.write:
                    self._write(access.value, there)
            if isinstance(work, Copy):
                self._check_copy(work, there)
            elif isinstance(work, Set):
                self._check_set(work, there)

    def _check_controls(self, parts: Sequence[Part], place: Place) -> None:
        """What loops and branches of units decide by, and the bounds of their counters."""
        for control in controls_of(parts):
            there = place.at(f"loop {control.counter}" if control.counter else f"if {control.condition}")
            if control.condition:
                self._check_condition(control.condition, there)
            if control.limit:
                self._check_limit(control.limit, there)
            if control.counter:
                wrong = bool(control.orelse) or (control.trip is None and not decides(control))
                trips = INFINITY if control.trip is None else bounds_of(control.trip, self._bounds).high
                self._bounds[control.counter] = Interval(0, max(trips - 1, 0))
            else:
                wrong = not control.condition or control.trip is not None or bool(control.limit)
            if wrong:
                raise there.broken(CONTROL, "it is neither")
            check_control(control, there)

    def _check_event_buffer(self, launch: Launch, place: Place) -> None:
        if launch.event_buffer:
            buffer = self._program.storage.buffers.get(launch.event_buffer)
            needed = event_bytes(launch)
            if buffer is None or buffer.kind != "event" or buffer.bytes < needed:
                found = "none" if buffer is None else f"{buffer.kind} of {buffer.bytes} bytes"
                raise place.broken(EVENTS, f"{launch.event_buffer!r} needs {needed} bytes of kind event, found {found}")

    def _check_envelope(self, launch: Launch, place: Place) -> None:
        e, device = launch.envelope, self._device
        called = (self._program.procedures[x].parts for x in reached(launch.body, self._program))
        for task in (x for parts in (launch.body, *called) for x in tasks_of(parts)):
            needs = self._program.kernels[task.kernel].choice.resources
            for what, needed, there in (
                ("threads", needs.threads, e.threads),
                ("shared bytes", needs.shared_bytes, e.shared_bytes),
                ("registers", needs.registers, e.registers or needs.registers),
            ):
                if needed > there:
                    raise place.broken(ENVELOPE, f"{task.kernel} needs {needed} {what}, the envelope has {there}")
        several = e.units > 1 and (len(launch.body) > 1 or any(not isinstance(x, Phase) for x in launch.body))
        if (several or any(isinstance(x, Wait) for x in leaves(launch.body))) and not e.cooperative:
            raise place.broken(RESIDENT, "it has several phases or waits, and the launch is not cooperative")
        if device is None:
            return
        for what, needed, there in (
            ("threads", e.threads, device.max_threads_per_block),
            ("shared bytes", e.block_bytes, device.shared_per_block),
            ("registers", e.registers * e.threads, device.registers_per_unit),
        ):
            if there and needed > there:
                raise place.broken(ENVELOPE, f"{needed} {what}, {device.name} has {there}")
        if e.cooperative and not device.cooperative:
            raise place.broken(RESIDENT, f"{device.name} does not promise that units are at work at once")
        held = device.blocks_together(e.threads, e.registers, e.block_bytes)
        if e.cooperative and e.units > held:
            raise place.broken(RESIDENT, f"{e.units} units do not fit on {device.name} at once, which holds {held}")

    def _parts(
        self,
        parts: Sequence[Part],
        launch: Launch,
        written: frozenset[str],
        env: Mapping[str, int],
        run: Run,
        place: Place,
        following: Sequence[Part] = (),
    ) -> frozenset[str]:
        """Checks parts of a launch, behind which others may come, and returns what is written after them."""
        check_haste(parts[-1] if parts else None, None, self._program, place)
        for at, part in enumerate(parts):
            there = place.at(f"part {at}")
            after_it = (*parts[at + 1 :], *following)
            check_haste(parts[at - 1] if at else None, part, self._program, there)
            if isinstance(part, Phase):
                written = run_phase(self._program, part, launch, written, env, run, there, self._footprint)
                continue
            if isinstance(part, GridCall):
                written = self._call(part, written, there.at(f"call {part.procedure}"))
                run.phases.append(Used(dict.fromkeys((*part.args, *part.reads, *part.results), ())))
                continue
            if isinstance(part, Fork):
                check_fork(part, self._program, there)
                given = [self._call(x, written, there.at(f"call {x.procedure}")) for x in part.calls]
                written = written.union(*given)
                touched = (name for x in part.calls for name in (*x.args, *x.reads, *x.results))
                run.phases.append(Used(dict.fromkeys(touched, ())))
                continue
            if part.trip is not None and UNIT in variables(part.trip):
                raise there.broken(UNIFORM, f"the trip count {show(part.trip)} depends on the unit")
            for name in decides(part):
                self._read(name, written, there)
                self._check_uniform(name, [*first_phases((part,)), *first_phases(after_it)], there)
            if part.counter:
                count = TRIPS if part.trip is None else min(number(part.trip, env), TRIPS)
                after = written
                for trip in range(count):
                    inner = {**env, part.counter: trip}
                    again = (part, *after_it)
                    after = self._parts(part.body, launch, after, inner, run, there.at(f"trip {trip}"), again)
                if part.trip is None or decides(part) or number(part.trip, env) > count:
                    run.unknown |= signalled(part.body)
                written = after if part.trip is not None and not decides(part) else written
            else:
                before = dict(run.counted)
                then = self._parts(part.body, launch, written, env, run, there.at("then"), after_it)
                run.counted = before
                written = then & self._parts(part.orelse, launch, written, env, run, there.at("else"), after_it)
                run.unknown |= signalled((*part.body, *part.orelse))
        return written

    def _check_uniform(self, name: str, next_phases: Sequence[Phase], place: Place) -> None:
        """Units read it after the barrier before it; nobody may write it before the next barrier."""
        placement = self._program.storage.placements[name]
        if self._program.storage.buffers[placement.buffer].owner == "unit":
            raise place.broken(UNIFORM, f"{name!r} is owned by a unit")
        for work in work_of(next_phases):
            for access in accesses(self._program, work):
                if access.write and same_bytes(access.placement, placement):
                    found = f"{call_of(work)} writes {name!r} in the phase after it is read"
                    raise place.broken(UNIFORM, found)
