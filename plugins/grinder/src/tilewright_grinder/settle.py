"""`settle_results` (bitwise): results stand where the planner wants them, as after legalisation.

Every result of the entry is written by an operator of its own, and a body returns a parameter in its own place only;
what is not so is copied.
"""

from __future__ import annotations

import attrs

from tilewright.ir.module import Function, Module
from tilewright.ir.ops import Location, Loop, Op, Region, Value
from tilewright_grinder.editor import Editor, everywhere


def settle_results(module: Module, editor: Editor) -> Module:
    """The module with copies of results where they are needed."""
    module = everywhere(module, _apart, editor)
    body = module.main.body
    results: list[Value] = []
    ops: list[Op] = list(body.ops)
    for value in body.results:
        if value in results or value in body.params or value.name in editor.constants:
            value = _copied(value, ops, editor)
        results.append(value)
    functions = {
        **module.functions,
        module.entry: Function(module.entry, Region(body.params, tuple(ops), tuple(results))),
    }
    return attrs.evolve(module, functions=functions)


def _apart(region: Region, editor: Editor) -> Region:
    return attrs.evolve(region, ops=tuple(_in_place(x, editor) if isinstance(x, Loop) else x for x in region.ops))


def _in_place(op: Loop, editor: Editor) -> Loop:
    """The loop with copies of the parameters that its body returns in the places of others."""
    params, ops = op.body.params, list(op.body.ops)
    results = [
        _copied(x, ops, editor) if x in params and params.index(x) != n + 1 else x
        for n, x in enumerate(op.body.results)
    ]
    return attrs.evolve(op, body=Region(params, tuple(ops), tuple(results)))


def _copied(value: Value, ops: list[Op], editor: Editor) -> Value:
    source = editor.tensor(value)
    with editor.building(f"{value.name}_moved", Location()) as made:
        found = editor.builder.compute(value.dtype, value.extents, lambda *i: source.at(i)).value
    ops += made
    return found
