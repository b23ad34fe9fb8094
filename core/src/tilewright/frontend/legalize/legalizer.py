"""The pass itself: looks up each node's rule, runs it, checks and names what it built."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.errors import InputError, InternalError, SymbolicError, UnsupportedError
from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Table
from tilewright.frontend.names import Names
from tilewright.frontend.steering import NeededError, explained
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import If, Loop, OnnxNode, Op, Region, Value
from tilewright.rewrites.calls import defined, expand_calls
from tilewright.rewrites.live import live
from tilewright.rewrites.rename import with_values

_RESULT = (Tensor, type(None))


def legalize(module: Module, table: Table) -> Module:
    """The module with every ONNX node replaced by tensor operators, scans and routines.

    Calls that cannot recurse are expanded. Every result of the entry is written by an operator of its own, so that it
    needs no copy afterwards.

    Raises:
        UnsupportedError: an operator without a rule, or one whose rule declines; the message names the node.
        SteeredError: a rule needs what is known only when the program runs.
    """
    module = expand_calls(module)
    names = Names()
    reserved = (*(x.name for x in module.symbols), *module.constants)
    for name in (*reserved, *(x.name for f in module.functions.values() for x in defined(f.body))):
        if not names.reserve(name):
            raise InternalError(f"The module has two values named {name}.")
    constants = dict(module.constants)
    builder = Builder(names, constants, {x.name: x.interval for x in module.symbols})
    functions: dict[str, Function] = {}
    for name, function in module.functions.items():
        region, values = function.body, dict[str, Value]()
        builder.ops = []
        try:
            legalize_ops(region.ops, table, builder, values)
        except NeededError as error:
            known = dict(zip((x.name for x in region.params), module.input_names, strict=False))
            raise explained(error, region.ops, known if name == module.entry else {}) from None
        if name == module.entry:
            results = _own_results(region.results, values, builder, region.params)
        else:
            results = tuple(values.get(x.name, x) for x in region.results)
        functions[name] = Function(name, live(Region(region.params, tuple(builder.ops), results)))
    used = {x.name for function in functions.values() for x in function.body.captured}
    kept = {name: data for name, data in constants.items() if name in used}
    return attrs.evolve(module, functions=functions, constants=kept)


def legalize_ops(ops: Sequence[Op], table: Table, builder: Builder, values: dict[str, Value]) -> None:
    """Appends to the builder what the operators become. `values` says what stands for a value of the nodes."""

    def of(x: Value) -> Value:
        return values.get(x.name, x)

    def inner(region: Region) -> Region:
        outside, builder.ops = builder.ops, []
        legalize_ops(region.ops, table, builder, values)
        results = _apart(region, values, builder)
        made, builder.ops = builder.ops, outside
        return live(Region(region.params, tuple(made), results))

    for op in ops:
        match op:
            case OnnxNode():
                node = Node(op, tuple(None if x is None else builder.tensor(of(x)) for x in op.inputs))
                _legalize_node(node, table, builder, values)
            case Loop():
                loop = attrs.evolve(
                    op,
                    trip=None if op.trip is None else of(op.trip),
                    condition=None if op.condition is None else of(op.condition),
                    carried=tuple(map(of, op.carried)),
                    body=inner(op.body),
                )
                builder.ops.append(loop)
            case If():
                branch = attrs.evolve(
                    op, condition=of(op.condition), then=inner(op.then), orelse=inner(op.orelse)
                )
                builder.ops.append(branch)
            case _:
                builder.append(with_values(op, of))


def _apart(region: Region, values: dict[str, Value], builder: Builder) -> tuple[Value, ...]:
    """The results of a nested region; a parameter that is returned in another's place is copied.

    A loop's state can then be overwritten in any order after a trip.
    """
    results: list[Value] = []
    for number, declared in enumerate(region.results):
        found = values.get(declared.name, declared)
        if found in region.params and region.params.index(found) != number + 1:
            source = builder.tensor(found)
            builder.hint = f"{found.name}_moved"
            found = builder.compute(found.dtype, source.extents, lambda *i, x=source: x.at(i)).value
        results.append(found)
    return tuple(results)


def _legalize_node(node: Node, table: Table, builder: Builder, values: dict[str, Value]) -> None:
    op = node.op
    rule = table.find(op.domain, op.op_type, op.version)
    if rule is None:
        message = f"{node} has no meaning in Tilewright yet."
        remedy = "Export the model without it, or install a plugin that registers a legalisation rule for it."
        unknown = [x for x in op.inputs if x is not None and x.name not in builder.constants]
        if unknown and all(x.rank == 0 for x in unknown):
            raise NeededError(message, remedy, unknown)  # when they are known, the importer evaluates the node
        raise UnsupportedError(message, remedy)
    first = len(builder.ops)
    builder.loc = op.loc
    builder.hint = op.name
    try:
        made = rule.function(builder, node)
    except SymbolicError as error:
        raise UnsupportedError(f"{node}: {error.message}", error.remedy) from None
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise rule.fault(f"The rule for {node} failed: {type(error).__name__}: {error}.") from error
    if not (isinstance(made, Tensor) or (isinstance(made, Sequence) and all(isinstance(x, _RESULT) for x in made))):
        raise rule.fault(f"The rule for {node} must give a Tensor or a sequence of them, not {made!r}.")
    tensors: Sequence[Tensor | None] = (made,) if isinstance(made, Tensor) else made
    new = {x.name for added in builder.ops[first:] for x in added.outputs if x is not None}
    renamed: dict[str, Value] = {}
    for position, declared in enumerate(op.outputs):
        if declared is None:
            continue
        found = tensors[position] if position < len(tensors) else None
        if found is None:
            raise rule.fault(f"The rule for {node} gave no output {position}.")
        if (found.dtype, found.extents) != (declared.dtype, declared.extents):
            raise rule.fault(
                f"The rule for {node} gave {found.dtype} {list(found.extents)} as output {position}; "
                f"ONNX says {declared.dtype} {list(declared.extents)}."
            )
        if found.value.name in new and found.value.name not in renamed:
            renamed[found.value.name] = declared
        values[declared.name] = renamed.get(found.value.name, found.value)
    builder.ops[first:] = [_rename(x, renamed) for x in builder.ops[first:]]


def _rename(op: Op, names: dict[str, Value]) -> Op:
    """The operator with some of the values that it reads or writes replaced; it is called after its first output."""
    renamed = with_values(op, lambda x: names.get(x.name, x))
    first = next((x for x in renamed.outputs if x is not None), None)
    return renamed if first is None else attrs.evolve(renamed, name=first.name)


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
            found = builder.compute(found.dtype, source.extents, lambda *i, x=source: x.at(i)).value
        results.append(found)
    return tuple(results)
