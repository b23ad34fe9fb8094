"""A model that cannot be compiled as a whole: cut into parts, each of which becomes a step of the program."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import onnx

from tilewright.artifact import Fallen, Manifest, Step, TensorInfo
from tilewright.artifact.manifest import UNRANKED
from tilewright.assemble import Parts
from tilewright.compiler import load_module, rules_of
from tilewright.config.binding import Settings
from tilewright.errors import SteeredError, UnsupportedError
from tilewright.frontend.partition import Classification, Part, Verdict, classify, cut
from tilewright.frontend.partition.types import described, dtype_in
from tilewright.frontend.source import Source, stored
from tilewright.ir.keys import identity
from tilewright.ir.module import Constant, Module
from tilewright.runtime.native import Array

_log = logging.getLogger(__name__)

_ALLOW = 'Or let ONNX\'s reference evaluator run it, slowly: fallback = "reference" (--fallback reference).'


@attrs.frozen
class Partitioned:
    """The parts of a model.

    Args:
        parts: in the order in which they run, each with its module if it is native.
        inputs, outputs: of the model.
    """

    parts: tuple[tuple[Part, Module | None], ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def fallen(self) -> tuple[Fallen, ...]:
        """The nodes that the reference evaluator runs."""
        return tuple(x for part, _ in self.parts if part.means == "reference" for x in _fallen(part))

    @property
    def names(self) -> list[object]:
        """The names in the artifact that `identity` does not hold."""
        parts = [(part.inputs, part.outputs) for part, _ in self.parts]
        return [*parts, *((x.name, str(x)) for x in (*self.inputs, *self.outputs))]

    def identity(self) -> list[str]:
        """What the parts are, for the key of the cache."""
        return [_digest(part.source) if module is None else identity(module) for part, module in self.parts]

    def steps(self, into: Parts) -> tuple[Step, ...]:
        """Builds the parts."""
        return tuple(_step(part, module, into) for part, module in self.parts)


def partitioned(
    source: Source,
    settings: Settings,
    shapes: Mapping[str, Any],
    bind: Mapping[str, Array],
    error: UnsupportedError,
    *,
    jit: bool,
) -> Partitioned | None:
    """The parts of a model that cannot be compiled as it is.

    Args:
        error: why.
        jit: whether parts may be compiled when the program runs.

    Returns:
        None when the whole of it is to be compiled when the program runs.

    Raises:
        UnsupportedError: a node cannot be compiled and may not fall back, or nothing runs it.
    """
    for name in (name for name, x in shapes.items() if isinstance(x, range)):
        if isinstance(error, SteeredError):
            return None
        raise UnsupportedError(
            f"{error.message} Such a model is cut into parts of fixed shapes, and dimension {name!r} is given a range.",
            'Give it one size or several, with fallback = "reference" (--fallback reference).',
        )
    found = classify(source, rules_of(settings), shapes, bind)
    _refuse(found.verdicts, settings.config.fallback, error)
    parts = cut(found)
    waiting = [x for part in parts for x in part.verdicts if x.where == "specialised"]
    if waiting and not jit:
        if isinstance(error, SteeredError):
            raise error
        raise UnsupportedError(f"{waiting[0].what} {waiting[0].why}", "Compile without --no-jit (jit=False).")
    if not any(x.means == "reference" for x in parts) and len(parts) < 2:
        if isinstance(error, SteeredError):
            return None
        raise error
    modules = [load_module(x.source, settings) if x.means == "native" else None for x in parts]
    graph = found.source.proto.graph
    taken = [x for x in graph.input if x.name not in found.constants]
    return Partitioned(
        tuple(zip(parts, modules, strict=True)),
        tuple(_info(found, x) for x in taken),
        tuple(_info(found, x) for x in graph.output),
    )


def report(nodes: Sequence[Fallen]) -> None:
    """Warns of the nodes that the reference evaluator runs, if there are any."""
    if nodes:
        shown = "; ".join(f"{x.node}: {x.why}" for x in nodes)
        _log.warning("ONNX's reference evaluator runs %d of the model's nodes: %s", len(nodes), shown)


def build_parts(made: Partitioned, name: str, settings: Settings, path: Path) -> Manifest:
    """Builds the parts of a model, called `name`, and writes the artifact to `path`; no cache."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as workdir:
        into = Parts(settings, Path(workdir))
        steps = made.steps(into)
        return into.write(path, name, made.inputs, made.outputs, steps)


def _refuse(verdicts: Sequence[Verdict], fallback: str, error: UnsupportedError) -> None:
    """Raises the error for what may not run, or cannot."""
    for verdict in verdicts:
        if verdict.where not in ("reference", "unsupported"):
            continue
        found = error if isinstance(verdict.error, SteeredError | None) else verdict.error
        if fallback != "reference":
            hint = _ALLOW if verdict.where == "reference" else ""
            raise UnsupportedError(found.message, f"{found.remedy} {hint}".strip())
        if verdict.where == "unsupported":
            raise UnsupportedError(f"{verdict.what}: {verdict.why}", found.remedy)


def _step(part: Part, module: Module | None, into: Parts) -> Step:
    if module is not None:
        return into.native([module])
    inputs = tuple(tensor_info(x.name, _declared(x)) for x in part.source.proto.graph.input)
    if part.means == "specialise":
        return into.model(part.source, (inputs,))
    return into.reference(part.source, inputs, _fallen(part))


def _fallen(part: Part) -> tuple[Fallen, ...]:
    return tuple(Fallen(x.what, x.why, x.inner) for x in part.verdicts)


def _digest(source: Source) -> str:
    digest = hashlib.sha256(stored(source))
    for name, array in sorted(source.weights.items()):
        digest.update(f"{name!r} {Constant(array).digest}".encode())
    return digest.hexdigest()


def _info(found: Classification, info: onnx.ValueInfoProto) -> TensorInfo:
    """What the program says of an input or output of the model; what is not known of it is as the model declares it."""
    known, declared = found.types.get(info.name), _declared(info)
    if known is None or declared is None or not known.HasField("tensor_type"):
        return tensor_info(info.name, known or declared)
    kind = onnx.TypeProto()
    kind.CopyFrom(known)
    shape, named = kind.tensor_type.shape, declared.tensor_type.shape
    if not known.tensor_type.HasField("shape") and declared.tensor_type.HasField("shape"):
        shape.CopyFrom(named)
    for mine, theirs in zip(shape.dim, named.dim, strict=False):
        if not mine.HasField("dim_value"):
            mine.CopyFrom(theirs)
    return tensor_info(info.name, kind)


def _declared(info: onnx.ValueInfoProto) -> onnx.TypeProto | None:
    return info.type if info.type.WhichOneof("value") is not None else None


def tensor_info(name: str, kind: onnx.TypeProto | None) -> TensorInfo:
    """What a program says about an input or output of a type; an extent that is not known gets a name."""
    if kind is None or not kind.HasField("tensor_type"):
        return TensorInfo(name, "", (), described(kind))
    tensor = kind.tensor_type
    dtype = "string" if tensor.elem_type == onnx.TensorProto.STRING else dtype_in(kind)
    if dtype is None:
        return TensorInfo(name, "", (), described(kind))
    if not tensor.HasField("shape"):
        return TensorInfo(name, dtype, UNRANKED)
    dims = enumerate(tensor.shape.dim)
    shape = tuple(x.dim_value if x.HasField("dim_value") else x.dim_param or f"{name}.{axis}" for axis, x in dims)
    return TensorInfo(name, dtype, shape)
