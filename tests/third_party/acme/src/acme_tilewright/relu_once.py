"""The pass `acme.relu_once`: a Relu of a Relu is the Relu."""

from __future__ import annotations

from typing import Any

import attrs

from tilewright.ir.module import Module
from tilewright.ir.ops import OnnxNode, Value


def run(module: Module, context: Any) -> Module:
    """The module with each Relu whose operand is a Relu's result taken out."""
    body = module.main.body
    relus = {op.outputs[0] for op in body.ops if isinstance(op, OnnxNode) and op.op_type == "Relu"}
    same: dict[Value | None, Value] = {}
    kept = []
    for op in body.ops:
        assert isinstance(op, OnnxNode)
        changed = attrs.evolve(op, inputs=tuple(same.get(value, value) for value in op.inputs))
        source, target = changed.inputs[0] if changed.inputs else None, op.outputs[0]
        if target in relus and source in relus and source is not None:
            same[target] = source
        else:
            kept.append(changed)
    results = tuple(same.get(value, value) for value in body.results)
    return module.with_main(attrs.evolve(body, ops=tuple(kept), results=results))
