"""Structural keys ignore names, locations and weight values, so that twelve equal layers match.

What a key holds: every dtype, shape, extent, index, guard, fill, body and combiner, which operand is a constant (it
may be packed), the level of each inner edge. Values and axes stand under numbers in the order in which they are met.
Symbols keep their names, for two of them have different bounds; so do the functions that a `Call` names, except in the
key of a whole module, where they have numbers too and each is written once, so that functions may call each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence

import attrs

from tilewright.ir.choice import Packing
from tilewright.ir.expr import Apply, Const, Expr, Load, Var
from tilewright.ir.group import Cover, Group
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import (
    Access,
    Axis,
    Call,
    Combiner,
    If,
    Loop,
    OnnxNode,
    Op,
    Region,
    Routine,
    ScanOp,
    TensorOp,
    Value,
    Write,
)
from tilewright.ir.text import print_cover, print_function, print_group, print_module, print_op, print_region
from tilewright.ir.text.ops import print_attribute


@attrs.frozen
class Canonical:
    """A group's structural key, and its values in the key's order.

    Two groups of one key are interchangeable: input i of one takes the place of input i of the other.
    """

    key: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def canonical(group: Group, constants: Container[str] = ()) -> Canonical:
    """The structural key of a group. How the group came about (`trail`) is not part of it.

    Args:
        constants: names of the values known at compile time.
    """
    return Canonical(structural_key(group, constants), group.inputs, group.outputs)


def structural_key(subject: Op | Group | Region | Function | Module, constants: Container[str] = ()) -> str:
    """SHA-256 in hexadecimal of the subject's structure.

    Args:
        constants: names of the values known at compile time; a module adds its own. That an operand is a constant is
            part of the key, which constant it is is not.
    """
    writer = _Writer(constants)
    match subject:
        case Module():
            writer.module(subject)
        case Group():
            writer.group(subject)
        case Region():
            writer.region(subject)
        case Function():
            writer.region(subject.body)
        case _:
            writer.op(subject)
    return hashlib.sha256("\n".join(writer.lines).encode()).hexdigest()


def packing_key(access: Access, axes: Sequence[Axis], packing: Packing) -> str:
    """SHA-256 in hexadecimal of how an operand is packed, which operand it is apart.

    Args:
        access: how the kernel reads the operand.
        axes: the kernel's axes that the access uses.
    """
    writer = _Writer(())
    writer.add("axes", *[writer.axis(x) for x in axes])
    writer.add("access", writer.access(access))
    writer.add("dims", *(f"{name!r}<{size}" for name, size in packing.dims))
    placed = [f"{writer.axes.get(name, repr(name))}={writer.expr(expr)}" for name, expr in packing.axes]
    writer.add("placed", *placed)
    return hashlib.sha256("\n".join(writer.lines).encode()).hexdigest()


def identity(subject: Op | Group | Cover | Region | Function | Module) -> str:
    """SHA-256 in hexadecimal of all that the subject says: names, locations and the contents of constants too."""
    match subject:
        case Module():
            text = print_module(subject)
        case Function():
            text = print_function(subject)
        case Region():
            text = print_region(subject)
        case Cover():
            text = print_cover(subject)
        case Group():
            text = print_group(subject)
        case _:
            text = print_op(subject)
    return hashlib.sha256(text.encode()).hexdigest()


class _Writer:
    """Writes operators with numbered values and axes, and each distinct expression of an operator once."""

    def __init__(self, constants: Container[str]) -> None:
        self.constants = constants
        self.names: dict[str, str] = {}
        self.axes: dict[str, str] = {}
        # By object and by text, never by equality: that visits a shared operand once per path to it.
        self.seen: dict[int, tuple[Expr, str]] = {}
        self.exprs: dict[str, str] = {}
        self.lines: list[str] = []
        self.functions: dict[str, str] | None = None  # numbers of functions, in a module

    def add(self, *parts: str) -> None:
        self.lines.append(" ".join(parts))

    def value(self, value: Value | None) -> str:
        if value is None:
            return "-"
        if value.name not in self.names:
            self.names[value.name] = f"v{len(self.names)}"
            kind = "const" if value.name in self.constants else "value"
            shape = ",".join(self.expr(x) for x in value.shape)
            self.add(self.names[value.name], kind, value.dtype, f"[{shape}]")
        return self.names[value.name]

    def expr(self, expr: Expr | None) -> str:
        match expr:
            case None:
                return "-"
            case Const():
                return f"{expr.value!r}:{expr.dtype}"
            case Var():
                return f"{self.axes.get(expr.name) or repr(expr.name)}:{expr.dtype}"
            case Load():
                return f"%{expr.slot}:{expr.dtype}"
            case Apply():
                if id(expr) in self.seen:
                    return self.seen[id(expr)][1]
                text = f"{expr.op}:{expr.dtype}({','.join(self.expr(x) for x in expr.args)})"
                name = self.exprs.get(text)
                if name is None:
                    name = self.exprs[text] = f"e{len(self.exprs)}"
                    self.add(name, text)
                self.seen[id(expr)] = (expr, name)
                return name
            case _:
                raise TypeError(f"{expr!r} is not an expression")

    def axis(self, axis: Axis) -> str:
        extent = self.expr(axis.extent)
        self.axes[axis.name] = f"a{len(self.axes)}"
        return f"{axis.kind}<{extent}"

    def access(self, access: Access) -> str:
        index = ",".join(self.expr(x) for x in access.index)
        return f"{self.value(access.value)}[{index}]?{self.expr(access.guard)}:{self.expr(access.fill)}"

    def write(self, write: Write) -> str:
        index = ",".join(self.expr(x) for x in write.index)
        update = self.combiner(write.update)
        base = self.value(write.base)
        return f"{self.value(write.value)}[{index}]?{self.expr(write.guard)} {update} {base} {write.ordered}"

    def combiner(self, combiner: Combiner | None) -> str:
        if combiner is None:
            return "-"
        states = ",".join(self.expr(x) for x in (*combiner.identity, *combiner.combine))
        return f"{combiner.name!r}({states})/{combiner.associative}/{combiner.commutative}"

    def io(self, *values: Value | None) -> None:
        self.add("io", *(self.value(x) for x in values))

    def group(self, group: Group) -> None:
        streams: list[str] = []
        for number, op in enumerate(group.ops):
            self.op(op)
            if group.stream in self.axes:
                streams.append(f"{number}.{self.axes[group.stream]}")
        levels = {self.names.get(name, repr(name)): level for name, level in group.levels}
        self.add("outputs", *(self.value(v) for v in group.outputs))
        self.add("levels", *(f"{name}={levels[name]}" for name in sorted(levels)))
        self.add("stream", *(streams if group.stream else ()))

    def module(self, module: Module) -> None:
        """The entry, then each function in the order in which it is first called."""
        self.constants = {*module.constants}
        self.functions = {module.entry: "f0"}
        written = 0
        while written < len(self.functions):
            name = list(self.functions)[written]
            self.names = {}
            self.add("function", self.functions[name])
            self.region(module.functions[name].body)
            written += 1
        self.add("depth", str(module.depth))
        self.add("symbols", *(f"{x.name!r}[{x.lower},{x.upper}]" for x in module.symbols))

    def function(self, name: str) -> str:
        if self.functions is None:
            return repr(name)
        return self.functions.setdefault(name, f"f{len(self.functions)}")

    def region(self, region: Region) -> None:
        self.add("params", *(self.value(x) for x in region.params))
        for op in region.ops:
            self.op(op)
        self.add("results", *(self.value(x) for x in region.results))

    def op(self, op: Op) -> None:
        self.axes, self.seen, self.exprs = {}, {}, {}
        match op:
            case TensorOp():
                self.add("tensor", *[self.axis(x) for x in op.axes])
                self.add("reads", *[self.access(x) for x in op.reads])
                self.add("body", *[self.expr(x) for x in op.body], self.combiner(op.combiner))
                self.add("writes", *[self.write(x) for x in op.writes], self.names.get(op.inplace, "-"))
            case ScanOp():
                self.add("scan", *[self.axis(x) for x in (*op.axes, op.scan)])
                self.add("reads", *[self.access(x) for x in op.reads])
                for part in (op.init, op.step, op.results):
                    self.add("states", *[self.expr(x) for x in part])
                self.add("writes", *[self.write(x) for x in op.writes])
            case Routine():
                attributes = ",".join(f"{name!r}={print_attribute(x)}" for name, x in op.attributes)
                self.add("routine", repr(op.kind), attributes, str(op.parallel), self.expr(op.workspace))
                self.io(*op.inputs, None, *op.outputs)
            case OnnxNode():
                attributes = ",".join(f"{name!r}={print_attribute(x)}" for name, x in op.attributes)
                self.add("onnx", repr((op.domain, op.op_type, op.version)), attributes)
                self.io(*op.inputs, None, *op.outputs)
            case Call():
                self.add("call", self.function(op.function))
                self.io(*op.inputs, None, *op.outputs)
            case Loop():
                self.add("count", self.expr(op.count))
                self.io(op.trip, op.condition, *op.carried)
                self.region(op.body)
                self.add("loop", *(self.value(x) for x in op.outputs))
            case If():
                self.io(op.condition)
                self.region(op.then)
                self.region(op.orelse)
                self.add("if", *(self.value(x) for x in op.outputs))
