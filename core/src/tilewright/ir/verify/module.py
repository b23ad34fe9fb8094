"""Laws of modules: names, definitions before uses, control flow, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.ir.bounds import Bounds
from tilewright.ir.module import Module
from tilewright.ir.ops import Call, If, Loop, OnnxNode, Op, Region, Routine, ScanOp, TensorOp, Value
from tilewright.ir.verify.exprs import ExprChecker, check_extent
from tilewright.ir.verify.laws import Place, show, show_value
from tilewright.ir.verify.operators import check_scan, check_tensor

SINGLE = "every value of a function is defined once, every operator and symbol has a name of its own"
DEFINED = "a value is defined before it is used, with the dtype and shape that its uses say"
ENTRY = "the entry is a function of the module, and functions stand under their own names"
NAMES = "there is one ONNX name per input and output of the entry, or none at all"
LENGTHS = "the length of an output is an int64 scalar, an output too, and cuts one that has rows"
SYMBOLS = "a symbol has bounds 0 <= lower <= upper"
LOOP = (
    "a loop has one trip count at most; its body takes an int64 and a bool scalar and the carried values, returns a "
    "bool and the carried values, then the scanned ones; the outputs are the carried and the scanned values"
)
IF = "the condition of a branch is a bool scalar, both regions have no parameters and return what the outputs say"
CALL = "a call names a function of the module and agrees with its parameters and results"
DEPTH = "at least one call may be active at a time"
ROUTINE = (
    "a routine has outputs, is parallel over dimensions that all of them have, and has a workspace of bounded size"
)


def verify_module(module: Module) -> None:
    """Raises VerifyError, naming law and place, unless the module keeps the laws of the first form."""
    place = Place("module")
    symbols = _check_symbols(module, place)
    if module.entry not in module.functions:
        raise place.broken(ENTRY, f"there is no function {module.entry!r}")
    for name, function in module.functions.items():
        if function.name != name:
            raise place.broken(ENTRY, f"function {function.name!r} stands under {name!r}")
    body = module.main.body
    for what, names, values in (
        ("input", module.input_names, body.params),
        ("output", module.output_names, body.results),
    ):
        if names and len(names) != len(values):
            raise place.broken(NAMES, f"{len(names)} {what} names for {len(values)} {what}s")
    if module.depth < 1:
        raise place.broken(DEPTH, f"the module's depth is {module.depth}")
    _check_lengths(module, place)
    constants = {name: constant.value(name) for name, constant in module.constants.items()}
    for function in module.functions.values():
        _Function(module, symbols).region(function.body, constants, place.at(f"function {function.name}"))


def _check_lengths(module: Module, place: Place) -> None:
    results = dict(zip(module.output_names, module.main.body.results, strict=False))
    for name, length in module.lengths.items():
        there = place.at(f"length of {name}")
        if name not in results or length not in results:
            raise there.broken(LENGTHS, f"{length if name in results else name!r} is no output")
        given = results[length]
        if not results[name].rank or (given.dtype, given.rank) != ("int64", 0):
            raise there.broken(LENGTHS, f"{length!r} is {given.dtype} of rank {given.rank}")


def _check_symbols(module: Module, place: Place) -> Bounds:
    for symbol in module.symbols:
        if not 0 <= symbol.lower <= symbol.upper:
            raise place.at(f"symbol {symbol.name}").broken(SYMBOLS, f"bounds [{symbol.lower}, {symbol.upper}]")
    names = [x.name for x in module.symbols]
    repeated = {x for x in names if names.count(x) > 1}
    if repeated:
        raise place.broken(SINGLE, f"symbol {min(repeated)!r} is defined twice")
    return {x.name: x.interval for x in module.symbols}


class _Function:
    """Checks the regions of one function, whose values and operators all have names of their own."""

    def __init__(self, module: Module, symbols: Bounds) -> None:
        self._module = module
        self._symbols = symbols
        self._values: set[str] = set(module.constants)
        self._ops: set[str] = set()

    def region(self, region: Region, outer: Mapping[str, Value], place: Place) -> None:
        scope = dict(outer)
        for value in region.params:
            self._define(value, scope, place.at(f"parameter {value.name}"))
        for op in region.ops:
            there = place.at(f"{_kind(op)} {op.name}")
            if op.name in self._ops:
                raise there.broken(SINGLE, f"another operator is called {op.name!r}")
            self._ops.add(op.name)
            for used in _operands(op):
                self._use(used, scope, there)
            self._op(op, scope, there)
            for made in op.outputs:
                if made is not None:
                    self._define(made, scope, there)
        for result in region.results:
            self._use(result, scope, place.at("results"))

    def _define(self, value: Value, scope: dict[str, Value], place: Place) -> None:
        if value.name in self._values:
            raise place.broken(SINGLE, f"value {value.name!r} is defined a second time")
        for extent in value.shape:
            check_extent(extent, self._symbols, place.at(f"shape of {value.name}"))
        self._values.add(value.name)
        scope[value.name] = value

    def _use(self, value: Value, scope: Mapping[str, Value], place: Place) -> None:
        found = scope.get(value.name)
        if found is None:
            raise place.broken(DEFINED, f"value {value.name!r} is not defined here")
        if found != value:
            shown = [show_value(x) for x in (value, found)]
            raise place.broken(DEFINED, f"value {value.name!r} is used as {shown[0]} but defined as {shown[1]}")

    def _op(self, op: Op, scope: Mapping[str, Value], place: Place) -> None:
        match op:
            case TensorOp():
                check_tensor(op, self._symbols, place)
            case ScanOp():
                check_scan(op, self._symbols, place)
            case Routine():
                check_routine(op, self._symbols, place)
            case Loop():
                _check_loop(op, self._symbols, place)
                self.region(op.body, scope, place.at("body"))
            case If():
                _check_if(op, place)
                self.region(op.then, scope, place.at("then"))
                self.region(op.orelse, scope, place.at("else"))
            case Call():
                self._call(op, place)
            case OnnxNode():
                pass  # ONNX's own checker knows their laws

    def _call(self, op: Call, place: Place) -> None:
        function = self._module.functions.get(op.function)
        if function is None:
            raise place.broken(CALL, f"there is no function {op.function!r}")
        _agree(op.inputs, function.body.params, CALL, "operand", place)
        _agree(op.outputs, function.body.results, CALL, "output", place)


def check_routine(op: Routine, symbols: Bounds, place: Place) -> None:
    """The laws of a routine's tile interface."""
    ranks = [x.rank for x in op.outputs]
    if not ranks or not 0 <= op.parallel <= min(ranks):
        raise place.broken(ROUTINE, f"parallel over {op.parallel} dimensions of outputs of ranks {ranks}")
    ExprChecker(dict.fromkeys(symbols, "int64")).check(op.workspace, place.at("workspace"), "int64")
    check_extent(op.workspace, symbols, place.at("workspace"))


def _operands(op: Op) -> list[Value]:
    """The values that an operator itself uses, without what its regions capture."""
    match op:
        case Loop():
            return [x for x in (op.trip, op.condition, *op.carried) if x is not None]
        case If():
            return [op.condition]
        case _:
            return [x for x in op.inputs if x is not None]


def _check_loop(op: Loop, symbols: Bounds, place: Place) -> None:
    carried = len(op.carried)
    if op.count is not None:
        if op.trip is not None:
            raise place.broken(LOOP, f"the trip count is {op.trip.name!r} and {show(op.count)}")
        check_extent(op.count, symbols, place.at("trip count"))
    for what, found, dtype in (("trip count", op.trip, "int64"), ("condition", op.condition, "bool")):
        if found is not None and (found.dtype, found.rank) != (dtype, 0):
            raise place.broken(LOOP, f"the {what} is {found.dtype} of rank {found.rank}")
    params, results = op.body.params, op.body.results
    if len(params) != carried + 2 or len(results) < carried + 1 or len(op.outputs) != len(results) - 1:
        counts = (
            f"{carried} carried values, {len(params)} parameters, {len(results)} results, {len(op.outputs)} outputs"
        )
        raise place.broken(LOOP, counts)
    for what, given, dtype in (
        ("iteration number", params[0], "int64"),
        ("condition parameter", params[1], "bool"),
        ("condition result", results[0], "bool"),
    ):
        if (given.dtype, given.rank) != (dtype, 0):
            raise place.broken(LOOP, f"the {what} is {given.dtype} of rank {given.rank}")
    _agree(op.carried, params[2:], LOOP, "carried value", place)
    _agree(results[1 : carried + 1], params[2:], LOOP, "carried result", place)
    _agree(op.outputs[:carried], params[2:], LOOP, "output", place)
    for output, result in zip(op.outputs[carried:], results[carried + 1 :], strict=True):
        if (output.dtype, output.shape[1:]) != (result.dtype, result.shape) or not output.rank:
            raise place.broken(LOOP, f"output {output.name!r} is not result {result.name!r} with one dimension more")


def _check_if(op: If, place: Place) -> None:
    if (op.condition.dtype, op.condition.rank) != ("bool", 0):
        raise place.broken(IF, f"the condition is {op.condition.dtype} of rank {op.condition.rank}")
    for name, region in (("then", op.then), ("else", op.orelse)):
        if region.params:
            raise place.at(name).broken(IF, f"{len(region.params)} parameters")
        _agree(region.results, op.outputs, IF, f"result of {name}", place)


def _agree(given: Sequence[Value], wanted: Sequence[Value], law: str, what: str, place: Place) -> None:
    if len(given) != len(wanted):
        raise place.broken(law, f"{len(given)} {what}s for {len(wanted)}")
    for number, (a, b) in enumerate(zip(given, wanted, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            found = f"{show_value(a)} for {show_value(b)}"
            raise place.broken(law, f"{what} {number}, {a.name!r}, is {found}")


def _kind(op: Op) -> str:
    return "node" if isinstance(op, OnnxNode) else type(op).__name__.removesuffix("Op").lower()
