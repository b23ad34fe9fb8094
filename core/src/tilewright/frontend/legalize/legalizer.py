"""The pass itself: looks up each node's rule, runs it, checks and names what it built."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.errors import InternalError, UnsupportedError
from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Table
from tilewright.frontend.names import Names
from tilewright.ir.module import Module
from tilewright.ir.ops import Access, OnnxNode, Op, Region, Routine, ScanOp, TensorOp, Value, Write


def legalize(module: Module, table: Table) -> Module:
    """The module with every ONNX node of its entry replaced by tensor operators, scans and routines.

    Every result of the region is written by an operator of its own, so that it needs no copy afterwards.

    Raises:
        UnsupportedError: an operator without a rule, or one whose rule declines; the message names the node.
    """
    region = module.main.body
    names = Names()
    reserved = [*region.params, *(x for op in region.ops for x in op.outputs if x is not None)]
    for name in (*module.constants, *(x.name for x in reserved)):
        if names.fresh(name) != name:
            raise InternalError(f"The module has two values named {name}.")
    constants = dict(module.constants)
    builder = Builder(names, constants)
    values: dict[str, Value] = {}
    for op in region.ops:
        if not isinstance(op, OnnxNode):
            builder.ops.append(op)
            continue
        node = Node(op, tuple(None if x is None else builder.tensor(values.get(x.name, x)) for x in op.inputs))
        _legalize_node(node, table, builder, values)
    results = _own_results(region.results, values, builder, region.params)
    ops = _live(builder.ops, results)
    used = {x.name for op in ops for x in op.inputs if x is not None}
    kept = {name: data for name, data in constants.items() if name in used}
    return module.with_main(Region(region.params, ops, results), kept)


def _legalize_node(node: Node, table: Table, builder: Builder, values: dict[str, Value]) -> None:
    op = node.op
    rule = table.find(op.domain, op.op_type, op.version)
    if rule is None:
        # A host fallback on ONNX's reference evaluator would be chosen here.
        raise UnsupportedError(
            f"{node} has no meaning in Tilewright yet.",
            "Export the model without it, or install a plugin that registers a legalisation rule for it.",
        )
    first = len(builder.ops)
    builder.loc = op.loc
    builder.hint = op.name
    try:
        made = rule.function(builder, node)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InternalError(f"The rule for {node} failed: {type(error).__name__}: {error}.") from error
    tensors: Sequence[Tensor | None] = (made,) if isinstance(made, Tensor) else made
    new = {x.name for added in builder.ops[first:] for x in added.outputs if x is not None}
    renamed: dict[str, Value] = {}
    for position, declared in enumerate(op.outputs):
        if declared is None:
            continue
        found = tensors[position] if position < len(tensors) else None
        if found is None:
            raise InternalError(f"The rule for {node} gave no output {position}.")
        if (found.dtype, found.shape) != (declared.dtype, declared.static_shape()):
            raise InternalError(
                f"The rule for {node} gave {found.dtype} {list(found.shape)} as output {position}; "
                f"ONNX says {declared.dtype} {list(declared.static_shape())}."
            )
        if found.value.name in new and found.value.name not in renamed:
            renamed[found.value.name] = declared
        values[declared.name] = renamed.get(found.value.name, found.value)
    builder.ops[first:] = [_rename(x, renamed) for x in builder.ops[first:]]


def _rename(op: Op, names: dict[str, Value]) -> Op:
    """The operator with some of the values that it reads or writes replaced; it is called after its first output."""

    def of(x: Value) -> Value:
        return names.get(x.name, x)

    def read(x: Access) -> Access:
        return attrs.evolve(x, value=of(x.value)) if x.value.name in names else x

    def write(x: Write) -> Write:
        base = None if x.base is None else of(x.base)
        return attrs.evolve(x, value=of(x.value), base=base)

    if isinstance(op, (TensorOp, ScanOp)):
        name = of(op.outputs[0]).name
        return attrs.evolve(op, name=name, reads=tuple(map(read, op.reads)), writes=tuple(map(write, op.writes)))
    if isinstance(op, Routine):
        name = of(op.outputs[0]).name
        return attrs.evolve(op, name=name, inputs=tuple(map(of, op.inputs)), outputs=tuple(map(of, op.outputs)))
    return op


def _own_results(
    wanted: Sequence[Value], values: dict[str, Value], builder: Builder, params: Sequence[Value]
) -> tuple[Value, ...]:
    """The region's results; one that is a parameter, a constant or an earlier result is copied."""
    results: list[Value] = []
    for declared in wanted:
        found = values.get(declared.name, declared)
        if found in results or found in params or found.name in builder.constants:
            source = builder.tensor(found)
            builder.hint = f"{declared.name}_result"
            found = builder.compute(found.dtype, source.shape, lambda *i, x=source: x.at(i)).value
        results.append(found)
    return tuple(results)


def _live(ops: Sequence[Op], results: Sequence[Value]) -> tuple[Op, ...]:
    """The operators that the results depend on."""
    needed = {x.name for x in results}
    kept = []
    for op in reversed(ops):
        if any(x is not None and x.name in needed for x in op.outputs):
            kept.append(op)
            needed.update(x.name for x in op.inputs if x is not None)
    return tuple(reversed(kept))
