"""Text of the fourth stored form: programs."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.ir.expr import const
from tilewright.ir.program import (
    BlockControl,
    Copy,
    Fetch,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    Item,
    Kernel,
    Launch,
    PackedConstant,
    Part,
    Phase,
    Program,
    Set,
    Signal,
    Step,
    Task,
    Wait,
)
from tilewright.ir.text.choices import choice_lines
from tilewright.ir.text.exprs import print_expr
from tilewright.ir.text.groups import group_lines
from tilewright.ir.text.modules import print_constant
from tilewright.ir.text.names import names, quote
from tilewright.ir.text.ops import declaration, indent, print_axis


def print_program(program: Program) -> str:
    """Symbols, constants, storage, kernels with their groups and choices, and the host tree."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield f"program ({', '.join(map(declaration, program.inputs))}) {{"
    for what, given in (("inputs", program.input_names), ("outputs", program.output_names)):
        if given:
            yield f"  {what} {names(given)}"
    if program.depth:
        yield f"  depth {program.depth}"
    for name, length in program.lengths.items():
        yield f"  length {names([name])} by {names([length])}"
    for symbol in program.symbols:
        yield f"  symbol {quote(symbol.name)} in [{symbol.lower}, {symbol.upper}]"
    for name, constant in program.constants.items():
        yield f"  const {quote(name)}: {print_constant(constant)}"
    for packed in program.packed.values():
        yield from indent(_packed(packed))
    for buffer in program.storage.buffers.values():
        kind = f"{buffer.kind}, {buffer.level}, {buffer.owner}"
        yield f"  buffer {quote(buffer.name)}: {buffer.bytes} bytes ({kind})"
    for place in program.storage.placements.values():
        where = f"{quote(place.buffer)}[{place.offset}, {place.offset + place.bytes})"
        yield f"  place {declaration(place.value)} at {where} for steps {place.first} to {place.last}"
    for kernel in program.kernels.values():
        yield from indent(_kernel(kernel))
    for procedure in program.procedures.values():
        yield f"  procedure {quote(procedure.name)} ({names(procedure.params)}) {{"
        yield from indent(indent(_steps(procedure.body)))
        yield f"    return ({names(procedure.results)})"
        yield "  }"
    yield from indent(_steps(program.body))
    yield f"  return ({names(x.name for x in program.outputs)})"
    yield "}"


def _packed(packed: PackedConstant) -> Iterator[str]:
    access, packing = packed.access, packed.packing
    index = ", ".join(print_expr(x, "int64") for x in access.index)
    guard = f" if {print_expr(access.guard, 'bool')}" if access.guard is not None else ""
    dims = ", ".join(f"{quote(name)} < {extent}" for name, extent in packing.dims)
    yield f"packed {declaration(packed.value)} = {quote(access.value.name)}[{index}]{guard} {{"
    yield f"  axes ({', '.join(map(print_axis, packed.axes))})"
    yield f"  dims ({dims}) at {', '.join(f'{quote(n)} = {print_expr(e)}' for n, e in packing.axes)}"
    yield "}"


def _kernel(kernel: Kernel) -> Iterator[str]:
    yield f"kernel {quote(kernel.name)} ({', '.join(map(declaration, kernel.params))}) {{"
    for slot, value in kernel.packed:
        yield f"  packed %{slot} = {quote(value.name)}"
    yield from indent(choice_lines(kernel.choice))
    yield from indent(group_lines(kernel.group))
    yield "}"


def _steps(steps: tuple[Step, ...]) -> Iterator[str]:
    for step in steps:
        match step:
            case Launch():
                yield from _launch(step)
            case HostLoop():
                yield f"{_by_graph(step)}loop {_control(step)} {{"
                yield from indent(_steps(step.body))
                yield "}"
            case HostIf():
                yield f"{_by_graph(step)}if {quote(step.condition)} {{"
                yield from indent(_steps(step.then))
                yield "} else {"
                yield from indent(_steps(step.orelse))
                yield "}"
            case HostCopy():
                yield _copy(step)
            case HostCall():
                yield _call(step)
            case HostSet():
                yield _set(step)
            case Phase() | GridControl() | GridCall() | Fork():
                yield from _parts((step,))


def _call(call: HostCall | GridCall) -> str:
    reads = f" reads ({names(call.reads)})" if call.reads else ""
    return f"call {quote(call.procedure)}({names(call.args)}) -> ({names(call.results)}){reads}"


def _copy(copy: HostCopy | Copy) -> str:
    row = "" if copy.row is None else f"[{print_expr(copy.row, 'int64')}]"
    return f"copy {quote(copy.source)} -> {quote(copy.target)}{row}"


def _set(step: HostSet | Set) -> str:
    return f"set {quote(step.target)} = {print_expr(step.value, 'int64')}"


def _by_graph(step: HostLoop | HostIf) -> str:
    return "graph " if step.graph else ""


def _control(loop: HostLoop | GridControl | BlockControl) -> str:
    count = f" < {print_expr(loop.trip, 'int64')}" if loop.trip is not None else ""
    condition = f" while {quote(loop.condition)}" if loop.condition else ""
    limit = f" limit {quote(loop.limit)}" if loop.limit else ""
    return f"{quote(loop.counter)}{count}{condition}{limit}"


def _launch(launch: Launch) -> Iterator[str]:
    e = launch.envelope
    parts = [f"units {e.units}", f"threads {e.threads}"]
    parts += [f"registers {e.registers}"] * bool(e.registers)
    parts += [f"shared {e.shared_bytes} bytes"] * bool(e.shared_bytes)
    parts += [f"own {e.own_bytes} bytes"] * bool(e.own_bytes)
    parts += [f"stack {e.stack_bytes} bytes"] * bool(e.stack_bytes) + ["cooperative"] * e.cooperative
    parts += ["led"] * launch.led
    if launch.subgrids.levels:
        widths = ", ".join(map(str, launch.subgrids.widths))
        parts.append(f"forks of {widths} in {launch.subgrids.levels} levels")
    parts += [f"event {quote(name)}[{count}]" for name, count in launch.events.items()]
    parts += [f"traced {launch.traced}"] * bool(launch.traced)
    yield f"launch {quote(launch.name)} ({', '.join(parts)}) {{"
    yield from indent(_parts(launch.body))
    yield "}"


def _parts(parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Phase):
            yield "phase {"
            for lane in part.lanes:
                units = print_expr(lane.units, "int64")
                yield f"  lane from unit {lane.first}, {units} units {{"
                yield from indent(indent(_items(lane.items)))
                yield "  }"
            yield "}"
        elif isinstance(part, GridCall):
            haste = [x for x in ("early", "direct", "late") if getattr(part, x)]
            yield " ".join([f"grid {_call(part)}", *haste])
        elif isinstance(part, Fork):
            yield "fork {"
            yield from indent(_parts(part.calls))
            yield "}"
        else:
            yield from _branches("grid", part, _parts(part.body), _parts(part.orelse))


def _items(items: tuple[Item, ...]) -> Iterator[str]:
    for item in items:
        match item:
            case Task():
                tasks = print_expr(item.first, "int64")
                if item.count != const(1):
                    tasks += f" step {print_expr(item.stride, 'int64')} count {print_expr(item.count, 'int64')}"
                near = "" if item.near is None else f" near {item.near.count} slices at {item.near.offset}"
                yield f"run {quote(item.kernel)}({names(item.args)}) task {tasks}{near}"
            case Copy():
                part = f" part {print_expr(item.part, 'int64')} of {item.parts}" if item.parts > 1 else ""
                yield f"{_copy(item)}{part}"
            case Set():
                yield _set(item)
            case Fetch():
                source = f"{quote(item.source)}[{print_expr(item.first, 'int64')}, + {item.bytes})"
                yield f"fetch {source} -> near {item.offset}"
            case Signal():
                yield f"signal {quote(item.event)}[{print_expr(item.index, 'int64')}]"
            case Wait():
                target = print_expr(item.target, "int64")
                yield f"wait {quote(item.event)}[{print_expr(item.index, 'int64')}] >= {target}"
            case BlockControl():
                yield from _branches("block", item, _items(item.body), _items(item.orelse))


def _branches(
    level: str, control: GridControl | BlockControl, body: Iterator[str], orelse: Iterator[str]
) -> Iterator[str]:
    if control.trip is not None or control.counter:
        yield f"{level} loop {_control(control)} {{"
        yield from indent(body)
    else:
        yield f"{level} if {quote(control.condition)} {{"
        yield from indent(body)
        if control.orelse:
            yield "} else {"
            yield from indent(orelse)
    yield "}"
