"""Text of operators and regions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tilewright.ir.expr import Apply, Expr, walk
from tilewright.ir.ops import (
    Access,
    Axis,
    Call,
    Combiner,
    If,
    Location,
    Loop,
    OnnxNode,
    Op,
    Region,
    Routine,
    ScanOp,
    TensorOp,
    Value,
    Write,
    combiner,
)
from tilewright.ir.text.exprs import Scope, print_expr
from tilewright.ir.text.names import names, quote

INDENT = "  "
_LET_SIZE = 8  # a shared expression of at least so many nodes is written once


def print_op(op: Op) -> str:
    """One operator, several lines for those with a body."""
    return "\n".join(op_lines(op))


def print_region(region: Region, name: str = "") -> str:
    """Parameters, operators and results of a region."""
    return "\n".join(region_lines(region, name))


def region_lines(region: Region, head: str) -> Iterator[str]:
    """`print_region` line by line, after the words `head`."""
    yield f"{head}({', '.join(map(declaration, region.params))}) {{"
    for op in region.ops:
        yield from indent(op_lines(op))
    yield f"{INDENT}return ({names(x.name for x in region.results)})"
    yield "}"


def op_lines(op: Op) -> Iterator[str]:
    """`print_op` line by line."""
    match op:
        case TensorOp():
            yield from _tensor(op)
        case ScanOp():
            yield from _scan(op)
        case Routine():
            extra = f" parallel {op.parallel}" if op.parallel else ""
            if op.workspace != _NO_WORKSPACE:
                extra += f" workspace {print_expr(op.workspace)}"
            call = f"{quote(op.kind)}({_inputs(op.inputs)}){_attributes(op.attributes)}"
            yield f"routine {quote(op.name)} = {call}{extra}{_results(op.outputs)}{comment(op.loc)}"
        case OnnxNode():
            kind = f"{op.domain}.{op.op_type}" if op.domain else op.op_type
            call = f"{quote(kind)}({_inputs(op.inputs)}){_attributes(op.attributes)} opset {op.version}"
            yield f"onnx {quote(op.name)} = {call}{_results(op.outputs)}{comment(op.loc)}"
        case Call():
            call = f"{quote(op.function)}({_inputs(op.inputs)})"
            yield f"call {quote(op.name)} = {call}{_results(op.outputs)}{comment(op.loc)}"
        case Loop():
            yield f"{loop_head(op)} {{{comment(op.loc)}"
            yield from indent(region_lines(op.body, "body "))
            yield "}"
        case If():
            yield f"{if_head(op)} {{{comment(op.loc)}"
            yield from indent(region_lines(op.then, "then "))
            yield from indent(region_lines(op.orelse, "else "))
            yield "}"


_NO_WORKSPACE = Routine("", "", (), ()).workspace


def loop_head(op: Loop) -> str:
    """A loop's line up to its body."""
    trip = f" trip {quote(op.trip.name)}" if op.trip is not None else ""
    if op.count is not None:
        trip += f" count {print_expr(op.count, 'int64')}"
    condition = f" while {quote(op.condition.name)}" if op.condition is not None else ""
    return f"loop {quote(op.name)}{trip}{condition} carry ({_inputs(op.carried)}){_results(op.outputs)}"


def if_head(op: If) -> str:
    """A branch's line up to its bodies."""
    return f"if {quote(op.name)} by {quote(op.condition.name)}{_results(op.outputs)}"


def indent(lines: Iterable[str]) -> Iterator[str]:
    """The lines, one level deeper."""
    return (INDENT + line for line in lines)


def comment(loc: Location) -> str:
    """The location as a trailing comment, or nothing."""
    if loc == Location():
        return ""
    made = f" -> {names(loc.outputs)}" if loc.outputs else ""
    return f"  # {quote(loc.op_type) if loc.op_type else 'op'} {quote(loc.node)}{made}"


def print_type(dtype: str, shape: tuple[Expr, ...]) -> str:
    """`float32[1, 64, N]`."""
    return f"{dtype}[{', '.join(print_expr(x, 'int64') for x in shape)}]"


def declaration(value: Value) -> str:
    """A value's name and type."""
    return f"{quote(value.name)}: {print_type(value.dtype, value.shape)}"


def _inputs(values: Iterable[Value | None]) -> str:
    return ", ".join("none" if x is None else quote(x.name) for x in values)


def _results(values: Iterable[Value | None]) -> str:
    return f" -> ({', '.join('none' if x is None else declaration(x) for x in values)})"


def _attributes(attributes: tuple[tuple[str, Any], ...]) -> str:
    if not attributes:
        return ""
    return f" {{{', '.join(f'{quote(name)} = {print_attribute(x)}' for name, x in attributes)}}}"


def print_attribute(value: Any) -> str:
    """An attribute's value; an array by type and digest."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return quote(value) if quote(value).startswith('"') else f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(map(print_attribute, value))}]"
        case np.ndarray():
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return f'{value.dtype}{list(value.shape)} digest "{digest}"'
        case _:
            return f"<{type(value).__name__}>"


def standard_name(found: Combiner) -> bool:
    """Whether the name and the dtype of a combiner say all of it."""
    if found.name not in ("sum", "prod", "max", "min", "and", "or") or len(found.identity) != 1:
        return False
    if (found.name in ("and", "or")) != (found.dtypes[0] == "bool"):
        return False
    return found == combiner(found.name, found.dtypes[0])  # type: ignore[arg-type]


def print_combiner(found: Combiner) -> str:
    """`sum float32`, or all of it: `combiner NAME (identities) -> (combined states) associative commutative`."""
    if standard_name(found):
        return f"{quote(found.name)} {found.dtypes[0]}"
    variables = {f"{side}{i}": dtype for i, dtype in enumerate(found.dtypes) for side in "ab"}
    scope = Scope(variables)
    identity = ", ".join(print_expr(x) for x in found.identity)
    states = ", ".join(print_expr(x, dtype, scope) for x, dtype in zip(found.combine, found.dtypes, strict=True))
    traits = " associative" * found.associative + " commutative" * found.commutative
    return f"combiner {quote(found.name)} ({identity}) -> ({states}){traits}"


class _Printer:
    """Lines of one operator, with a `let` before the first line that uses a large shared expression."""

    def __init__(self, reads: tuple[Access, ...], roots: Iterable[Expr | None]) -> None:
        self.lines: list[str] = []
        self.lets: dict[Expr, str] = {}
        self.scope = Scope({}, tuple(x.value.dtype for x in reads), self.lets)
        self._shared = _shared(x for x in roots if x is not None)

    def expr(self, found: Expr, known: str | None = None) -> str:
        for node in walk(found):
            if node in self._shared and node not in self.lets:
                text = print_expr(node, None, self.scope)
                self.lets[node] = f"${len(self.lets)}"
                self.lines.append(f"{INDENT}{self.lets[node]} = {text}")
        return print_expr(found, known, self.scope)

    def reads(self, reads: tuple[Access, ...]) -> None:
        for slot, access in enumerate(reads):
            index = ", ".join(self.expr(x, "int64") for x in access.index)
            line = f"{INDENT}%{slot} = {quote(access.value.name)}[{index}]"
            if access.guard is not None:
                line += f" if {self.expr(access.guard, 'bool')}"
            if access.fill is not None:
                line += f" else {self.expr(access.fill, access.value.dtype)}"
            self.lines.append(line)

    def writes(self, writes: tuple[Write, ...]) -> None:
        for write in writes:
            index = ", ".join(self.expr(x, "int64") for x in write.index)
            line = f"{INDENT}write {declaration(write.value)} [{index}]"
            if write.guard is not None:
                line += f" if {self.expr(write.guard, 'bool')}"
            if write.update is not None:
                line += f" update {print_combiner(write.update)}"
            if write.base is not None:
                line += f" base {quote(write.base.name)}"
            self.lines.append(line + " ordered" * write.ordered)


def _shared(roots: Iterable[Expr]) -> frozenset[Expr]:
    uses: dict[Expr, int] = {}
    sizes: dict[Expr, int] = {}
    for root in roots:
        uses[root] = uses.get(root, 0) + 1
        for node in walk(root):
            if node in sizes:
                continue
            args = node.args if isinstance(node, Apply) else ()
            sizes[node] = min(1 + sum(sizes[x] for x in args), 1 << 30)
            for arg in args:
                uses[arg] = uses.get(arg, 0) + 1
    return frozenset(x for x, n in uses.items() if n > 1 and sizes[x] >= _LET_SIZE)


def print_axis(axis: Axis) -> str:
    """`[reduce] name < extent`."""
    return f"{'reduce ' * (axis.kind == 'reduce')}{quote(axis.name)} < {print_expr(axis.extent, 'int64')}"


def _roots(reads: tuple[Access, ...], bodies: Iterable[Expr], writes: tuple[Write, ...]) -> Iterator[Expr | None]:
    for access in reads:
        yield from (*access.index, access.guard)
    yield from bodies
    for write in writes:
        yield from (*write.index, write.guard)


def _tensor(op: TensorOp) -> Iterator[str]:
    axes = ", ".join(map(print_axis, op.axes))
    inplace = f" inplace {quote(op.inplace)}" if op.inplace else ""
    yield f"tensor {quote(op.name)} for ({axes}){inplace} {{{comment(op.loc)}"
    printer = _Printer(op.reads, _roots(op.reads, op.body, op.writes))
    printer.reads(op.reads)
    if op.combiner is not None:
        printer.lines.append(f"{INDENT}reduce {print_combiner(op.combiner)}")
    for body in op.body:
        printer.lines.append(f"{INDENT}body {printer.expr(body)}")
    printer.writes(op.writes)
    yield from printer.lines
    yield "}"


def _scan(op: ScanOp) -> Iterator[str]:
    axes = ", ".join(map(print_axis, op.axes))
    yield f"scan {quote(op.name)} for ({axes}) over {print_axis(op.scan)} {{{comment(op.loc)}"
    printer = _Printer(op.reads, _roots(op.reads, (*op.init, *op.step, *op.results), op.writes))
    states: Mapping[str, str] = {f"{x}{i}": e.dtype for i, e in enumerate(op.init) for x in "ps"}
    printer.scope = Scope(states, printer.scope.loads, printer.lets)
    printer.reads(op.reads)
    for what, exprs in (("init", op.init), ("step", op.step), ("result", op.results)):
        for found in exprs:
            text = printer.expr(found)
            printer.lines.append(f"{INDENT}{what} {text}")
    printer.writes(op.writes)
    yield from printer.lines
    yield "}"
