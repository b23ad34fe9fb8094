"""What becomes of each node: the importer and the legalisation rules are asked, one node after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner

from tilewright.errors import InputError, SteeredError, UnsupportedError
from tilewright.frontend.functions import names_used, plain_domain
from tilewright.frontend.graph import Importer, describe
from tilewright.frontend.legalize import Builder, Table
from tilewright.frontend.legalize.legalizer import legalize_ops
from tilewright.frontend.load import bound
from tilewright.frontend.names import Names
from tilewright.frontend.partition.levels import without_crossing
from tilewright.frontend.partition.meaning import without_meaning
from tilewright.frontend.partition.types import Open, closed, described, dtype_in, inferred
from tilewright.frontend.partition.verdict import Classification, Verdict
from tilewright.frontend.reference import captured, reference_node
from tilewright.frontend.scope import Scope
from tilewright.frontend.sequences import OPERATORS
from tilewright.frontend.shapes import Shape, bind_inputs
from tilewright.frontend.source import Source
from tilewright.frontend.steering import NeededError, explained
from tilewright.frontend.symbols import asked_range, symbols_of
from tilewright.frontend.tensors import element_type
from tilewright.ir import dtypes
from tilewright.ir.module import Constant, Symbol
from tilewright.ir.ops import Value, value

Array = npt.NDArray[Any]

MOST_STEERING = 256
"""Elements up to which an input is taken for one that may steer shapes."""


def classify(
    source: Source,
    table: Table,
    shapes: Mapping[str, Shape] | None = None,
    bind: Mapping[str, Array] | None = None,
    *,
    lenient: bool = False,
) -> Classification:
    """Asks about every node of a model. Nothing is compiled.

    Args:
        shapes, bind: as for `tilewright.frontend.load`.
        lenient: whether shapes may be missing, and nodes may be wrong; verdicts say so then.

    Raises:
        InputError: an argument or, unless `lenient`, the model cannot be used.
    """
    given = {name: asked_range(name, shape, source.inputs) or shape for name, shape in (shapes or {}).items()}
    return _Classifier(_inlined(source), table, lenient, given).run(given, bind or {})


def _inlined(source: Source) -> Source:
    """The model with calls of its functions expanded, as far as they are of the model's opset."""
    if not source.proto.functions:
        return source
    proto = onnx.inliner.inline_local_functions(source.proto)
    opsets = {plain_domain(x.domain): x.version for x in proto.opset_import}
    return attrs.evolve(source, proto=proto, opsets=opsets)


class _Classifier:
    def __init__(self, source: Source, table: Table, lenient: bool, shapes: Mapping[str, Shape]) -> None:
        self.source, self.table, self.lenient = source, table, lenient
        functions = {(plain_domain(x.domain), x.name): x for x in source.proto.functions}
        names = Names()
        self.importer = Importer(functions, table.covers, source.folder, names, symbols_of(shapes, names))
        graph = source.proto.graph
        self.scope = Scope(source.opsets, names_used(graph.node, (x.name for x in graph.output)))
        self.open: dict[str, Open] = {}
        self.steerable: set[str] = set()
        self.cut: set[str] = set()
        self.pending: set[str] = set()  # sequences and optionals that are known once a run knows more
        self.builder = Builder(self.importer.names, {}, self.importer.bounds)
        self.values: dict[str, Value] = {}  # what stands for the importer's values after legalisation
        self._shown = 0  # how many of the importer's constants the builder knows

    def run(self, shapes: Mapping[str, Shape], bind: Mapping[str, Array]) -> Classification:
        self._inputs(shapes, bind)
        verdicts = [self._node(x) for x in self.source.proto.graph.node if any(y in self.scope.used for y in x.output)]
        names = [*self.scope.values, *self.scope.sequences, *self.open]
        known = {name: self._constant(name) for name in names}
        found = Classification(
            self.source,
            tuple(verdicts),
            self._types(names),
            self.open,
            {name: x for name, x in known.items() if x is not None},
            frozenset(self.steerable),
            frozenset(x for v in verdicts for x in v.node.output if x in self.pending or self._is_compound(x)),
            frozenset(self.cut),
        )
        return without_crossing(found)

    # What is known of a name.

    def _value(self, name: str) -> Value | None:
        return self.scope.values.get(name)

    def _constant(self, name: str) -> Array | None:
        return self.importer.data(self._value(name))

    def _types(self, names: Iterable[str]) -> dict[str, onnx.TypeProto]:
        """The types of names, as far as they are known."""
        found: dict[str, onnx.TypeProto] = {}
        for name in names:
            of, unknown, items = self._value(name), self.open.get(name), self.scope.sequences.get(name)
            if of is not None:
                found[name] = self.importer.type_of(of)
            elif items:
                kind = onnx.helper.make_tensor_type_proto(element_type(items[0].dtype), None)
                found[name] = onnx.helper.make_sequence_type_proto(kind)
            elif unknown is not None and unknown.type is not None:
                found[name] = unknown.type
        return found

    # Inputs.

    def _inputs(self, shapes: Mapping[str, Shape], bind: Mapping[str, Array]) -> None:
        weights = self.source.weights
        declared = [x for x in self.source.proto.graph.input if x.name not in weights]
        tensors = [x for x in declared if dtype_in(x.type) is not None]
        opaque = {x.name for x in declared} - {x.name for x in tensors}
        sizes = {**{name: list(np.shape(x)) for name, x in bind.items() if name not in weights}, **shapes}
        given = {name: x for name, x in sizes.items() if name not in opaque}
        if self.lenient:
            known = [x for x in tensors if x.name in given]
            tensors = [x for x in tensors if x.name in given or _has_size(x, known, given, self.importer.symbols)]
        typed = bind_inputs(tensors, given, self.importer.symbols)
        for info in declared:
            if info.name in bind and info.name not in typed:
                kind = described(info.type)
                raise InputError(f"A value is bound to {info.name!r} ({kind}).", "Only tensors of numbers may be.")
            if info.name in typed:
                dtype, shape = typed[info.name]
                if info.name in bind:
                    array = bound(info.name, dtype, shape, bind[info.name])
                    self.scope.values[info.name] = self.importer.constant(info.name, array)
                    continue
                made = value(self.importer.names.fresh(info.name), dtype, list(shape))
                self.scope.values[info.name] = made
                small = made.is_static and math.prod(made.static_shape()) <= MOST_STEERING
                if made.rank <= 1 and small and (not dtypes.is_float(dtype) or math.prod(made.static_shape()) <= 1):
                    self.steerable.add(info.name)
            else:
                self.open[info.name] = Open(info.type)
        for name, data in weights.items():
            self.scope.values[name] = self.importer.constant(name, np.asarray(bind.get(name, data)))

    # Nodes.

    def _node(self, node: onnx.NodeProto) -> Verdict:
        what = describe(node, self.scope)
        needed = list(dict.fromkeys(x for x in (*node.input, *sorted(captured(node))) if x))
        missing = [x for x in needed if x in self.open]
        verdict = self._opened(node, what, needed, missing) if missing else self._closed(node, what, needed)
        if verdict.where == "reference":
            try:
                reference_node(node, self.scope.opsets, self.source.proto.functions)
            except UnsupportedError as error:
                verdict = attrs.evolve(verdict, where="unsupported", why=f"{verdict.why} {error.message}")
        self._define(node, needed)
        if verdict.where == "specialised":
            kinds = ((x, self.open[x].type) for x in node.output if x in self.open)
            self.pending |= {x for x, kind in kinds if kind is not None and not kind.HasField("tensor_type")}
        return verdict

    def _closed(self, node: onnx.NodeProto, what: str, needed: Sequence[str]) -> Verdict:
        """A node of which every input is known."""
        error = self._tried(node, needed, self.scope)
        if error is None:
            known = all(self._constant(x) is not None for x in node.output if x and x in self.scope.used)
            return Verdict(node, what, "constant" if known else "native")
        if not isinstance(error, UnsupportedError):
            if not self.lenient:
                raise error
            return Verdict(node, what, "unsupported", _why(error, what), error=error)
        if isinstance(error, SteeredError):
            return Verdict(node, what, "specialised", _why(error, what), error.inputs, error=error)
        return Verdict(node, what, "reference", _why(error, what), error=error)

    def _opened(self, node: onnx.NodeProto, what: str, needed: Sequence[str], missing: Sequence[str]) -> Verdict:
        """A node that reads values of which not all is known; it is tried with what they might be."""
        for name in missing:
            waits = name in self.pending and node.op_type in OPERATORS
            if self.open[name].is_opaque and not waits:
                kind = described(self.open[name].type)
                error = UnsupportedError(f"{what} reads {name!r} ({kind}), which is no tensor of numbers.")
                return Verdict(node, what, "reference", _why(error, what), error=error)
        names = self.importer.names
        samples = {name: self.open[name].sample(names.fresh(name)) for name in missing}
        tried: InputError | None = None if self.pending.intersection(missing) else InputError("")
        if all(x is not None for x in samples.values()):
            values = {x: self.scope.values[x] for x in needed if x not in samples and x in self.scope.values}
            inner = Scope(self.scope.opsets, self.scope.used, self.scope.path, {**values, **samples})
            inner.sequences |= {x: y for x, y in self.scope.sequences.items() if x in needed}
            tried = self._tried(node, needed, inner)
        steering: tuple[str, ...] = ()
        match tried:
            case None:
                pass
            case SteeredError():
                steering = tried.inputs
            case UnsupportedError():
                return Verdict(node, what, "reference", _why(tried, what), error=tried)
            case _:  # the samples do not fit each other: what is known of the operator decides
                strange = without_meaning(node, self.scope.opsets, self.table)
                if strange is not None:
                    error = UnsupportedError(f"{what} has no meaning in Tilewright yet ({strange}).")
                    return Verdict(node, what, "reference", _why(error, what), error=error)
        shapes = ", ".join(repr(x) for x in missing)
        error = UnsupportedError(
            f"{what} reads {shapes}, whose shape only a run knows.",
            "Compile without --no-jit (jit=False), so that the program is specialised when it runs.",
        )
        return Verdict(node, what, "specialised", _why(error, what), steering, tuple(missing), error)

    def _tried(self, node: onnx.NodeProto, needed: Sequence[str], scope: Scope) -> InputError | None:
        """Imports and legalises a node; returns what is wrong with it.

        Its outputs stay in the scope if it could be imported. A `SteeredError` names which of what it reads it needs.
        """
        importer, builder = self.importer, self.builder
        given = {name: scope.values.get(name) for name in needed}
        importer.inputs = {x.name: name for name, x in given.items() if x is not None and importer.data(x) is None}
        try:
            importer.add(node, scope)
            for name, data in islice(importer.constants.items(), self._shown, None):
                builder.constants[name] = Constant(data)
            self._shown = len(importer.constants)
            legalize_ops(importer.ops, self.table, builder, self.values)
            for name in node.output:
                # Where data decide how many rows count, only a run knows the shape.
                made = scope.values.get(name)
                if made is not None and made.name in importer.lengths:
                    del scope.values[name]
                    self.cut.add(name)
        except NeededError as error:
            return explained(error, importer.ops, importer.inputs)
        except InputError as error:
            return error
        finally:
            importer.ops.clear()
            builder.ops.clear()
        return None

    def _is_compound(self, name: str) -> bool:
        """Whether a result is a sequence or an empty optional, of which nothing is left after the import."""
        return name in self.scope.sequences or (name in self.scope.values and self.scope.values[name] is None)

    def _define(self, node: onnx.NodeProto, needed: Sequence[str]) -> None:
        """Gives the outputs that the import did not define what onnx's inference knows of them."""
        known_names = self.scope.values.keys() | self.scope.sequences.keys()
        missing = [x for x in node.output if x and x in self.scope.used and x not in known_names]
        if not missing:
            return
        data = {x: self._constant(x) for x in node.input if x}
        known = {x: y for x, y in data.items() if y is not None and y.ndim <= 1 and y.size <= MOST_STEERING}
        types = inferred(node, self._types(needed), known, self.scope.opsets)
        for name in missing:
            made = closed(types.get(name), self.importer.names.fresh(name))
            if made is not None:
                self.scope.values[name] = made
            else:
                self.open[name] = Open(types.get(name))


def _why(error: InputError, what: str) -> str:
    """What an error about a node says without the node's name."""
    return error.message.removeprefix(f"{what} ")


def _has_size(
    info: onnx.ValueInfoProto,
    given: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, Shape],
    symbols: Mapping[str, Symbol],
) -> bool:
    """Whether the shape of an input follows from its declaration and the given shapes of others."""
    try:
        bind_inputs([*given, info], shapes, symbols)
    except InputError:
        return False
    return True
