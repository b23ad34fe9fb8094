"""Seeded variants of models whose stored weights prove nothing.

The `light_*` models inside the onnx package fill every weight with one constant, so their outputs are flat
and a compiler that mixes up two channels passes. Here each such weight becomes a random initialiser, from a
seed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tilewright.errors import InputError

LIGHT_PREFIX = "light:"
"""A model given as `light:NAME` is the seeded variant of onnx's `light_NAME.onnx`."""


_PLAIN_INITIALISERS = 4  # before this IR version, each initialiser had to be an input too


def light_names() -> tuple[str, ...]:
    """The light models of the installed onnx: `squeezenet`, `resnet50`, …"""
    return tuple(sorted(p.stem.removeprefix("light_") for p in _light_folder().glob("light_*.onnx")))


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """The seeded variant of a light model, with the value before its last Softmax as a further output.

    Raises:
        InputError: there is no such model.
    """
    path = _light_folder() / f"light_{name}.onnx"
    if name not in light_names():
        raise InputError(f"There is no light model {name!r}.", f"There are: {', '.join(light_names())}.")
    return seeded(expose_logits(onnx.load(path)), seed)


def _light_folder() -> Path:
    spec = importlib.util.find_spec("onnx.backend.test")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "light"


def seeded(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """A copy of `model` in which each float weight made by ConstantOfShape is a random initialiser.

    Weights of rank 2 and more are normal with variance 2 / fan-in (He), those of rank 1 are `0.01 + 0.1·|N(0,
    1)|`, so that variances are positive.

    Args:
        model: not changed.
        seed: equal seeds give equal weights.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    initialisers = {t.name: t for t in graph.initializer}
    for number in reversed(range(len(graph.node))):
        shape = _constant_weight(graph.node[number], initialisers)
        if shape is not None:
            array = _weight(np.random.default_rng((seed, number)), shape)
            graph.initializer.append(numpy_helper.from_array(array, graph.node[number].output[0]))
            del graph.node[number]
    _drop_unused(graph)
    result.ir_version = max(result.ir_version, _PLAIN_INITIALISERS)
    return result


def _constant_weight(node: onnx.NodeProto, initialisers: dict[str, onnx.TensorProto]) -> tuple[int, ...] | None:
    """Shape of the weight that `node` makes, or None if it makes none."""
    if node.op_type != "ConstantOfShape" or node.input[0] not in initialisers:
        return None
    value = next((a.t for a in node.attribute if a.name == "value"), None)
    if value is not None and value.data_type != onnx.TensorProto.FLOAT:
        return None
    return tuple(int(x) for x in numpy_helper.to_array(initialisers[node.input[0]]))


def _weight(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    noise = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
        return np.float32(0.01) + np.float32(0.1) * np.abs(noise)
    return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drops the shapes that nothing reads any more, and the inputs that were only there for initialisers."""
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    weights = {t.name for t in graph.initializer}
    _keep(graph.input, {i.name for i in graph.input} - weights)
    _keep(graph.initializer, used)


def _keep(field: Any, names: set[str]) -> None:
    for position in reversed(range(len(field))):
        if field[position].name not in names:
            del field[position]


def expose_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with the input of its last Softmax as a further output; `model` itself if it has
    none.

    A softmax over random logits is nearly flat, so agreement after it says little.
    """
    last = next((node for node in reversed(model.graph.node) if node.op_type == "Softmax"), None)
    if last is None or last.input[0] in {o.name for o in model.graph.output}:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for info in _infos(onnx.shape_inference.infer_shapes(model, strict_mode=True).graph):
        if info.name == last.input[0]:
            result.graph.output.append(info)
            return result
    raise InputError(f"The shape of {last.input[0]!r}, before the last Softmax, cannot be inferred.")


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.value_info
    yield from graph.input
    yield from graph.output
