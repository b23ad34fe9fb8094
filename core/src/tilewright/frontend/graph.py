"""From NodeProtos to typed `OnnxNode`s, and to operators with regions of them for control flow.

Nodes are taken one by one in their order. Whatever is known at compile time is evaluated on the way, so that the
shapes of what follows are known too; functions, the model's own and those of ONNX's composite operators, are expanded
in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import onnx
from onnx import shape_inference

from tilewright.errors import InputError, SymbolicError, UnsupportedError
from tilewright.frontend import fold
from tilewright.frontend.control import CONTROL, add_control
from tilewright.frontend.extents import Symbolic, is_symbolic, result_shape
from tilewright.frontend.functions import names_used, plain_domain, resolved, standard_body
from tilewright.frontend.names import Names
from tilewright.frontend.numbers import LARGEST, Numbers, evaluate, numbers, operator, plain, settled
from tilewright.frontend.scope import Scope
from tilewright.frontend.sequences import add_sequences, takes_sequences
from tilewright.frontend.shapes import OUTPUT_SHAPES, value_of
from tilewright.frontend.steering import NeededError, OpenRegion, deciding, explained
from tilewright.frontend.tensors import dtype_of, element_type, to_array
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, as_extent
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Location, OnnxNode, Op, Value, value

Array = npt.NDArray[Any]
IsNative = Callable[[str, str, int], bool]

_FOLDED_INPUT_LIMIT = 1 << 16
"""Elements up to which a constant input is shown to shape inference."""


class Importer:
    """Collects nodes and constants.

    Args:
        functions: the model's local functions by domain and name.
        is_native: whether an operator (domain, type, opset) needs no expansion by ONNX's function body.
        folder: where external data may lie.
        names: where names of values come from; those of the symbols are taken.
        symbols: the module's symbols, by the name of the dimension.

    Attributes:
        inputs: ONNX name of each value that is an input of the model.
        open: the regions around the node that is being imported, the outermost first.
    """

    def __init__(
        self,
        functions: Mapping[tuple[str, str], onnx.FunctionProto],
        is_native: IsNative,
        folder: Path | None,
        names: Names | None = None,
        symbols: Mapping[str, Symbol] | None = None,
    ) -> None:
        self.functions = functions
        self.is_native = is_native
        self.folder = folder
        self.names = names or Names()
        self.symbols = symbols or {}
        self.bounds = {x.name: x.interval for x in self.symbols.values()}
        self.ops: list[Op] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, str] = {}
        self.open: list[OpenRegion] = []
        self.lengths: dict[str, Value] = {}
        self._numbers: dict[str, Numbers] = {}
        self._extents: dict[str, Expr] = {}
        self._types: dict[str, onnx.TypeProto] = {}
        self._calls: list[tuple[str, str]] = []

    def constant(self, hint: str, array: Array) -> Value:
        """A new constant."""
        name = self.names.fresh(hint)
        self.constants[name] = array
        return value(name, dtypes.from_numpy(array.dtype), [int(x) for x in array.shape])

    def data(self, of: Value | None) -> Array | None:
        """The contents of a value if it is a constant."""
        return None if of is None else self.constants.get(of.name)

    def numbers(self, of: Value | None) -> Numbers | None:
        """The contents of a small tensor of integers or bools that is known up to symbols."""
        if of is None or of.name in self._numbers:
            return None if of is None else self._numbers[of.name]
        data = self.constants.get(of.name)
        return None if data is None or data.size > LARGEST or data.dtype.kind not in "ib" else numbers(data)

    def known(self, hint: str, dtype: str, found: Numbers, loc: Location) -> Value:
        """The value of numbers: a constant, or one that depends on symbols alone."""
        literal = plain(found, dtype)
        if literal is not None:
            return self.constant(hint, literal)
        made = value(self.names.fresh(hint), dtype, list(found.shape))
        self._numbers[made.name] = found
        self.ops.append(operator(made, found, loc))
        return made

    def add(self, node: onnx.NodeProto, scope: Scope) -> None:
        """Imports one node; its outputs are bound in `scope`.

        Raises:
            InputError: the model is wrong.
            UnsupportedError: the node has no meaning here.
        """
        try:
            self._add(node, scope)
        except SymbolicError as error:
            raise UnsupportedError(f"{describe(node, scope)}: {error.message}", error.remedy) from None

    def _add(self, node: onnx.NodeProto, scope: Scope) -> None:
        node = resolved(node, scope.attributes, scope.used)
        if not any(node.output):
            return
        domain = plain_domain(node.domain)
        what = describe(node, scope)
        version = scope.opsets.get(domain)
        if not (domain == "" and node.op_type == "Identity"):
            self.refuse_cut((scope.values.get(name) for name in node.input), what)
        inputs = [self._input(name, scope, what) for name in node.input]
        local = self.functions.get((domain, node.op_type))
        if local is not None:
            self._call(node, local, inputs, scope, what)
            return
        if domain == "" and takes_sequences(node, scope):
            add_sequences(self, node, scope, what)
            return
        if version is None:
            raise InputError(
                f"{what} is of the domain {domain!r}, which the model does not import.", "Repair the model."
            )
        if domain == "" and node.op_type in CONTROL:
            add_control(self, node, inputs, scope, what)
            return
        if domain == "" and self._known(node, inputs, scope, what):
            return
        if not onnx.defs.has(node.op_type, version, domain):
            raise UnsupportedError(
                f"{what} is not an operator of the domain {domain or 'ai.onnx'!r} at opset {version}.",
                "Define it as a function in the model, or rewrite it with ONNX's operators.",
            )
        schema = onnx.defs.get_schema(node.op_type, version, domain)
        native = self.is_native(domain, node.op_type, version)
        kinds = self._infer(schema, node, inputs, scope, what)
        if kinds is not None and self._follow(node, inputs, kinds, scope):
            return
        if kinds is not None and self._fold(node, inputs, kinds, scope, what):
            return
        if not native:
            types = [None if x is None else self.type_of(x) for x in inputs]
            body = standard_body(schema, node, types, version)
            if body is not None:
                self._call(node, body, inputs, scope, what)
                return
        if kinds is None:
            raise self.needed(
                f"{what} has a result whose shape depends on the data.",
                "Make its inputs constants of the model, or export it with fixed shapes.",
                self._steering(schema, node, inputs, scope, what),
            )
        outputs: list[Value | None] = []
        for name, kind in zip(node.output, kinds, strict=True):
            outputs.append(None if kind is None else attrs.evolve(kind, name=self.names.fresh(name)))
            if name:
                scope.values[name] = outputs[-1]
        self.ops.append(
            OnnxNode(
                next((x.name for x in outputs if x is not None), self.names.fresh(node.op_type)),
                node.op_type,
                domain,
                version,
                tuple(inputs),
                tuple(outputs),
                {x.name: self._attribute(x, what) for x in node.attribute},
                _location(node, scope),
            )
        )

    def needed(self, message: str, remedy: str, values: Sequence[Value]) -> UnsupportedError:
        """The error for a node that needs values which are not known; it names the inputs that they follow from."""
        ops = [op for region in self.open for op in region.outside] + self.ops
        entries = {x.name: region.given for region in self.open for x in region.params}
        return explained(NeededError(message, remedy, values), ops, self.inputs, entries)

    def find(self, name: str, scope: Scope, what: str) -> Value:
        """The value of a name that `what` needs."""
        found = scope.values.get(name)
        if found is None:
            raise InputError(f"{what} reads {name!r}, which nothing defines.", "Repair the model.")
        return found

    def refuse_cut(self, values: Iterable[Value | None], what: str) -> None:
        """Raises UnsupportedError for a value of which data decide how many rows count: `what` cannot use it."""
        for x in values:
            if x is not None and x.name in self.lengths:
                raise UnsupportedError(
                    f"{what} uses {x.name!r}, which has a row per trip of a loop, and data decide how many there are.",
                    "Make it an output of the model, or fix the number of trips when exporting.",
                )

    def _input(self, name: str, scope: Scope, what: str) -> Value | None:
        if not name or name in scope.sequences or (name in scope.values and scope.values[name] is None):
            return None
        return self.find(name, scope, what)

    def _attribute(self, attribute: onnx.AttributeProto, what: str) -> Any:
        found = onnx.helper.get_attribute_value(attribute)
        if isinstance(found, bytes):
            return found.decode("utf-8", "replace")
        if isinstance(found, onnx.TensorProto):
            return to_array(found, self.folder, f"The attribute {attribute.name!r} of {what}")
        if attribute.type == onnx.AttributeProto.STRINGS:
            return tuple(x.decode("utf-8", "replace") for x in found)
        if isinstance(found, (int, float)):
            return found
        try:
            return tuple(found)
        except TypeError:
            return found

    # What is known without evaluating anything.

    def _known(self, node: onnx.NodeProto, inputs: Sequence[Value | None], scope: Scope, what: str) -> bool:
        """Handles the nodes whose outputs are aliases or follow from shapes. Returns whether it did."""
        first = inputs[0] if inputs else None
        result: Value | None = None
        match node.op_type:
            case "Constant":
                result = self.constant(node.output[0], self._constant_node(node, what))
            case "Identity":
                result = first
            case "Shape" if first is not None:
                shape = np.asarray(first.extents, object)
                start = fold.attribute(node, "start", 0)
                found = shape[start : fold.attribute(node, "end")]
                result = self.known(node.output[0], "int64", found, _location(node, scope))
            case "Size" if first is not None:
                size = settled(as_extent(first.num_elements()), self.bounds)
                result = self.known(node.output[0], "int64", size, _location(node, scope))
            case "Range" if all(x is not None and x.name in self.constants for x in inputs):
                # ONNX's own function bodies pass vectors of one element, which inference refuses.
                parts = [np.asarray(self.data(x)) for x in inputs]
                found = np.arange(*(x.reshape(-1)[0] for x in parts)).astype(parts[0].dtype)
                result = self.constant(node.output[0], found)
            case "ConstantOfShape" if self.data(first) is not None:
                given = fold.attribute(node, "value")
                fill = (
                    np.zeros(1, np.float32) if given is None else to_array(given, self.folder, f"The value of {what}")
                )
                extents = [] if first is None else self.constants[first.name].tolist()
                result = self.constant(node.output[0], np.broadcast_to(fill.reshape(()), extents))
        if result is None:
            return False
        scope.values[node.output[0]] = result
        return True

    def _constant_node(self, node: onnx.NodeProto, what: str) -> Array:
        attribute = node.attribute[0]
        found = onnx.helper.get_attribute_value(attribute)
        match attribute.name:
            case "value":
                return to_array(found, self.folder, f"The value of {what}")
            case "value_float" | "value_floats":
                return np.asarray(found, np.float32)
            case "value_int" | "value_ints":
                return np.asarray(found, np.int64)
            case _:
                raise UnsupportedError(
                    f"{what} holds a {attribute.name}.", "Tilewright has dense numeric constants only."
                )

    # Types and folding.

    def _infer(
        self,
        schema: onnx.defs.OpSchema,
        node: onnx.NodeProto,
        inputs: Sequence[Value | None],
        scope: Scope,
        what: str,
        assumed: Mapping[str, Array] | None = None,
    ) -> list[Value | None] | None:
        """Type of each output (None: not wanted), or None when a shape is not known.

        Args:
            assumed: contents of values that are not constants.
        """
        types = {name: self.type_of(x) for name, x in zip(node.input, inputs, strict=True) if x is not None}
        known = {}
        contents = [self._assumed(x, assumed or {}) for x in inputs]
        for name, data in zip(node.input, contents, strict=True):
            if data is not None and data.size <= _FOLDED_INPUT_LIMIT and data.ndim <= 1:
                known[name] = onnx.numpy_helper.from_array(data.copy())
        probed = onnx.NodeProto()
        probed.CopyFrom(node)
        for i, x in enumerate(inputs):
            if x is None:
                probed.input[i] = ""
        for i, formal in enumerate(schema.outputs[: len(node.output)]):
            # Inference insists on a name for what no node may leave out, whether or not anything reads it.
            if not node.output[i] and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
                probed.output[i] = f"unread {i}"
        opsets = [onnx.helper.make_opsetid(name, version) for name, version in scope.opsets.items()]
        try:
            found = shape_inference.infer_node_outputs(
                schema, probed, types, {k: v for k, v in known.items() if k in probed.input}, None, opsets
            )
        except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{what} does not fit its inputs: {reason}", "Check the model and the given shapes."
            ) from None
        kinds: list[Value | None] = []
        for name in node.output:
            if not name:
                kinds.append(None)
                continue
            called = f"The result {name!r} of {what}"
            kind = value_of("", found[name], called, self._extents) if name in found else None
            if kind is None and node.op_type in OUTPUT_SHAPES:
                kind = OUTPUT_SHAPES[node.op_type](node, inputs, contents)
            if self.symbols and name in found:
                kind = self._symbolic(node, inputs, what, dtype_of(found[name].tensor_type.elem_type, called)) or kind
            if kind is None:
                return None
            kinds.append(kind)
        return kinds

    def _assumed(self, x: Value | None, assumed: Mapping[str, Array]) -> Array | None:
        return assumed[x.name] if x is not None and x.name in assumed else self.data(x)

    def _steering(
        self,
        schema: onnx.defs.OpSchema,
        node: onnx.NodeProto,
        inputs: Sequence[Value | None],
        scope: Scope,
        what: str,
    ) -> list[Value]:
        """The inputs whose contents decide the shapes of a node's outputs."""

        def decided(values: Sequence[Value]) -> bool:
            """Whether there is a result with these known, or the complaint that what is assumed does not fit."""
            assumed = {x.name: np.ones(x.static_shape(), dtypes.to_numpy(x.dtype)) for x in values}
            try:
                return self._infer(schema, node, inputs, scope, what, assumed) is not None
            except InputError:
                return True

        return deciding([x for x in inputs if x is not None and x.name not in self.constants and x.rank <= 1], decided)

    def _symbolic(self, node: onnx.NodeProto, inputs: Sequence[Value | None], what: str, dtype: str) -> Value | None:
        """The type of a result by the rules for symbolic dimensions, or None when there is none for the node."""
        known = [self.numbers(x) for x in inputs]
        if not is_symbolic(inputs, known):
            return None
        shape = result_shape(Symbolic(node, what, inputs, known, [self.data(x) for x in inputs], self.bounds))
        return None if shape is None else value("", dtype, shape)

    def _follow(
        self, node: onnx.NodeProto, inputs: Sequence[Value | None], kinds: Sequence[Value | None], scope: Scope
    ) -> bool:
        """Evaluates a node on numbers of which some are symbolic. Returns whether it did."""
        known = [self.numbers(x) for x in inputs]
        first = kinds[0] if len(kinds) == 1 else None
        if first is None or first.dtype not in ("int64", "int32", "bool"):
            return False
        if not any(x is not None and x.name in self._numbers for x in inputs):
            return False
        if any(x is not None and n is None for x, n in zip(inputs, known, strict=True)):
            return False
        integers = all(x is None or (x.dtype != "bool") == (first.dtype != "bool") for x in inputs)
        result = known[0] if node.op_type == "Cast" and integers else evaluate(node, known, self.bounds)
        if result is None or result.shape != first.extents:
            return False
        scope.values[node.output[0]] = self.known(node.output[0], first.dtype, result, _location(node, scope))
        return True

    def type_of(self, x: Value) -> onnx.TypeProto:
        """The type of a value, as ONNX writes it."""
        found = self._types.get(x.name)
        if found is None:
            dims: list[int | str] = []
            for n in x.extents:
                if isinstance(n, Expr):
                    self._extents[repr(n)] = n
                dims.append(n if isinstance(n, int) else repr(n))
            found = onnx.helper.make_tensor_type_proto(element_type(x.dtype), dims)
            self._types[x.name] = found
        return found

    def _fold(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Value | None],
        kinds: Sequence[Value | None],
        scope: Scope,
        what: str,
    ) -> bool:
        """Evaluates the node if everything is known and the results stay small. Returns whether it did."""
        if node.op_type in fold.RANDOM or any(x is not None and x.name not in self.constants for x in inputs):
            return False
        given = sum(self.constants[x.name].nbytes for x in inputs if x is not None)
        results = sum(
            int(np.prod(x.static_shape(), dtype=np.int64)) * dtypes.size_of(x.dtype) for x in kinds if x is not None
        )
        if results > given + fold.LARGEST_GROWTH:
            return False
        found = fold.evaluate(node, [self.data(x) for x in inputs], scope.opsets, what)
        if found is None:
            return False
        # The reference evaluator gets the shape of some rare results wrong; those are left to the program.
        if any(k is not None and x.shape != k.static_shape() for k, x in zip(kinds, found, strict=False)):
            return False
        for name, kind, array in zip(node.output, kinds, found, strict=False):
            if kind is not None:
                scope.values[name] = self.constant(name, np.asarray(array, dtypes.to_numpy(kind.dtype)))
        return True

    # Functions.

    def _call(
        self,
        node: onnx.NodeProto,
        function: onnx.FunctionProto,
        inputs: Sequence[Value | None],
        scope: Scope,
        what: str,
    ) -> None:
        """Imports the body of `function` in the place of `node`."""
        key = (function.domain, function.name)
        if key in self._calls:
            raise InputError(f"{what} calls itself.", "ONNX functions must not be recursive.")
        padded = [*inputs, *([None] * (len(function.input) - len(inputs)))]
        opsets = {**scope.opsets, **{plain_domain(x.domain): x.version for x in function.opset_import}}
        given = {x.name: x for x in function.attribute_proto} | {x.name: x for x in node.attribute}
        path = f"{scope.path}{node.name or node.op_type}/"
        used = names_used(function.node, function.output)
        inner = Scope(opsets, used, path, dict(zip(function.input, padded, strict=True)), given)
        inner.sequences |= {
            inside: scope.sequences[outside]
            for outside, inside in zip(node.input, function.input, strict=False)
            if outside in scope.sequences
        }
        self._calls.append(key)
        try:
            for part in function.node:
                self.add(part, inner)
        finally:
            self._calls.pop()
        for outside, inside in zip(node.output, function.output, strict=False):
            if outside and inside in inner.sequences:
                scope.bind(outside, inner.sequences[inside])
            elif outside:
                scope.bind(outside, self._input(inside, inner, what))


def _location(node: onnx.NodeProto, scope: Scope) -> Location:
    return Location(scope.path + node.name, node.op_type, tuple(node.output))


def describe(node: onnx.NodeProto, scope: Scope) -> str:
    """How errors call a node: type, name (or first output) and opset."""
    domain = plain_domain(node.domain)
    name = scope.path + (node.name or next((x for x in node.output if x), ""))
    opset = scope.opsets.get(domain, 0)
    return f"{domain + '.' if domain else ''}{node.op_type} node {name!r} (opset {opset})"
