"""`load`: read, check, import, legalise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.asked import check_names
from tilewright.frontend.functions import names_used, plain_domain
from tilewright.frontend.graph import Importer
from tilewright.frontend.legalize import Table, builtin_table, legalize
from tilewright.frontend.names import Names
from tilewright.frontend.scope import Scope
from tilewright.frontend.shapes import Shape, bind_inputs
from tilewright.frontend.source import Source, read
from tilewright.frontend.symbols import asked_range, symbols_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Extent
from tilewright.ir.module import Constant, Function, Module
from tilewright.ir.ops import Region, Value, value
from tilewright.rewrites.live import live

Model = str | Path | bytes | onnx.ModelProto | Source


def load(
    model: Model,
    shapes: Mapping[str, Shape] | None = None,
    bind: Mapping[str, npt.NDArray[Any]] | None = None,
    table: Table | None = None,
) -> Module:
    """An ONNX model as a module of tensor operators.

    Args:
        model: a path, the bytes of a file, a parsed model, or what `read` made of one.
        shapes: shapes of inputs, and sizes of named dimensions, where the model leaves them open. A named dimension
            that is given a range stays a symbol of the module.
        bind: inputs that are fixed to the given arrays at compile time.
        table: the legalisation rules; by default the built-in ones.

    Raises:
        InputError: the model or an argument cannot be used as it is.
        UnsupportedError: the model has an operator or a type that Tilewright has no meaning for.
    """
    rules = builtin_table() if table is None else table
    return legalize(import_model(model, shapes, bind, rules), rules)


def import_model(
    model: Model,
    shapes: Mapping[str, Shape] | None = None,
    bind: Mapping[str, npt.NDArray[Any]] | None = None,
    table: Table | None = None,
) -> Module:
    """An ONNX model as a module of typed ONNX nodes: functions expanded, constants folded. Arguments as in `load`."""
    rules = builtin_table() if table is None else table
    source = model if isinstance(model, Source) else read(model)
    functions = {(plain_domain(f.domain), f.name): f for f in source.proto.functions}
    graph = source.proto.graph
    given = {name: asked_range(name, shape, source.inputs) or shape for name, shape in (shapes or {}).items()}
    names = Names()
    symbols = symbols_of(given, names)
    importer = Importer(functions, rules.covers, source.folder, names, symbols)
    scope = Scope(source.opsets, names_used(graph.node, (x.name for x in graph.output)))
    params = _inputs(source, importer, scope, given, bind or {})
    for node in graph.node:
        importer.add(node, scope)
    found = {info.name: _result(info.name, scope) for info in graph.output}
    lengths: dict[str, str] = {}
    for name, x in [*found.items()]:
        if x.name in importer.lengths:
            lengths[name] = next((n for n, y in found.items() if y == importer.lengths[x.name]), f"{name}.length")
            found.setdefault(lengths[name], importer.lengths[x.name])
    results = tuple(found.values())
    body = live(Region(tuple(params.values()), tuple(importer.ops), results))
    used = {x.name for x in body.captured}
    constants = {name: Constant(data) for name, data in importer.constants.items() if name in used}
    return Module(
        {"main": Function("main", body)},
        constants,
        tuple(symbols.values()),
        input_names=tuple(params),
        output_names=tuple(found),
        lengths=lengths,
    )


def _inputs(
    source: Source,
    importer: Importer,
    scope: Scope,
    shapes: Mapping[str, Shape],
    bind: Mapping[str, npt.NDArray[Any]],
) -> dict[str, Value]:
    """Defines the model's inputs and initialisers; returns the inputs by ONNX name.

    An initialiser that is listed as an input too (the rule before IR 4) is a default value, used as a constant.
    """
    graph = source.proto.graph
    declared = source.inputs
    unknown = [x for x in bind if x not in {info.name for info in graph.input}]
    if unknown:
        raise InputError(f"A value is bound to {unknown[0]!r}, which is no input of the model.", "Check the name.")
    check_names(declared, shapes)
    given: dict[str, Shape] = {x: np.shape(bind[x]) for x in bind if x not in source.weights}
    typed = bind_inputs(declared, given | dict(shapes), importer.symbols)
    params: dict[str, Value] = {}
    for info in declared:
        dtype, shape = typed[info.name]
        if info.name in bind:
            scope.values[info.name] = importer.constant(info.name, bound(info.name, dtype, shape, bind[info.name]))
        else:
            params[info.name] = value(importer.names.fresh(info.name), dtype, list(shape))
            scope.values[info.name] = params[info.name]
            importer.inputs[params[info.name].name] = info.name
    for name, data in source.weights.items():
        scope.values[name] = importer.constant(name, np.asarray(bind.get(name, data)))
    return params


def bound(name: str, dtype: str, shape: Sequence[Extent], given: object) -> npt.NDArray[Any]:
    """The array that is bound to an input. Raises InputError when it is not of the input's type."""
    array = np.asarray(given)
    if array.dtype != dtypes.to_numpy(dtype) or array.shape != tuple(shape):
        raise InputError(
            f"Input {name!r} is {dtype} {list(shape)}; the value bound to it is {array.dtype} {list(array.shape)}.",
            "Bind an array of the input's type.",
        )
    return array


def _result(name: str, scope: Scope) -> Value:
    found = scope.values.get(name)
    if found is None and (name in scope.sequences or name in scope.values):
        raise UnsupportedError(
            f"The model's output {name!r} is a sequence or an empty optional.", "Make its elements outputs."
        )
    if found is None:
        raise InputError(f"The model's output {name!r} is not defined by any node.", "Repair the model.")
    return found
