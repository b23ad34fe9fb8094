"""Structural keys ignore names, locations and weight values, so that twelve equal layers match."""

from __future__ import annotations

import hashlib
from collections.abc import Container

import attrs

from tilewright.ir.expr import Apply, Const, Expr, Load, Var
from tilewright.ir.group import Group
from tilewright.ir.ops import Access, Axis, Combiner, HostOp, Routine, ScanOp, TensorOp, Value, Write


@attrs.frozen
class Canonical:
    """A group's structural key, and its values in the key's order.

    Two groups of one key are interchangeable: input i of one takes the place of input i of the other.
    """

    key: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def canonical(group: Group, constants: Container[str] = ()) -> Canonical:
    """The structural key of a group.

    Args:
        constants: names of the values known at compile time. That an operand is a constant is part of the key (it may be
            packed), which constant it is is not.
    """
    writer = _Writer(constants)
    for op in group.ops:
        writer.op(op)
    writer.add("outputs", *(writer.value(v) for v in group.outputs))
    writer.add("levels", *(f"{writer.names.get(name, name)}={level}" for name, level in group.levels))
    writer.add("trail", *group.trail, "stream", writer.axes.get(group.stream, group.stream))
    digest = hashlib.sha256("\n".join(writer.lines).encode()).hexdigest()
    return Canonical(digest, group.inputs, group.outputs)


class _Writer:
    """Writes operators with numbered values and axes."""

    def __init__(self, constants: Container[str]) -> None:
        self.constants = constants
        self.names: dict[str, str] = {}
        self.axes: dict[str, str] = {}
        self.lines: list[str] = []

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
                return f"{self.axes.get(expr.name, expr.name)}:{expr.dtype}"
            case Load():
                return f"%{expr.slot}:{expr.dtype}"
            case Apply():
                return f"{expr.op}:{expr.dtype}({','.join(self.expr(x) for x in expr.args)})"
            case _:
                raise TypeError(f"{expr!r} is not an expression")

    def axis(self, axis: Axis) -> str:
        self.axes[axis.name] = f"a{len(self.axes)}"
        return f"{axis.kind}<{self.expr(axis.extent)}"

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
        return f"{states}/{combiner.associative}/{combiner.commutative}"

    def op(self, op: TensorOp | ScanOp | Routine | HostOp) -> None:
        match op:
            case TensorOp():
                self.axes = {}
                self.add("tensor", *(self.axis(x) for x in op.axes))
                self.add("reads", *(self.access(x) for x in op.reads))
                self.add("body", *(self.expr(x) for x in op.body), self.combiner(op.combiner))
                self.add("writes", *(self.write(x) for x in op.writes), self.names.get(op.inplace, "-"))
            case ScanOp():
                self.axes = {}
                self.add("scan", *(self.axis(x) for x in (*op.axes, op.scan)))
                self.add("reads", *(self.access(x) for x in op.reads))
                self.add("steps", *(self.expr(x) for x in (*op.init, *op.step, *op.results)))
                self.add("writes", *(self.write(x) for x in op.writes))
            case Routine():
                self.add("routine", op.kind, repr(op.attributes), str(op.parallel), self.expr(op.workspace))
                self.add("io", *(self.value(x) for x in (*op.inputs, *op.outputs)))
            case HostOp():
                self.add("host", op.node.hex(), str(op.opset))
                self.add("io", *(self.value(x) for x in (*op.inputs, *op.outputs)))
