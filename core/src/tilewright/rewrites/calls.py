"""Functions made ready for planning: calls that cannot recurse are expanded, names are unique in the module. Exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

from tilewright.errors import UnsupportedError
from tilewright.ir.calls import call_graph, reachable, recursive
from tilewright.ir.module import Function, Module
from tilewright.ir.ops import Call, Op, Region, Value, bodies
from tilewright.rewrites.rename import region_with_values, with_op_names, with_values

LARGEST = 200_000
"""Operators that expanded calls may come to. Functions that call each other twice grow exponentially."""


def expand_calls(module: Module, kept: Iterable[str] | None = None) -> Module:
    """The module with the body of a function in the place of each call of it, unless it is recursive.

    Functions that nothing calls any more are dropped, and values and operators have names of their own in the module.

    Args:
        kept: functions that stay functions; by default the recursive ones. None of the others may be called by itself.

    Raises:
        UnsupportedError: the calls come to more than `LARGEST` operators.
    """
    module = reached(module)
    staying = frozenset(recursive(module) if kept is None else kept) | {module.entry}
    if len(module.functions) == 1:
        return module
    module = unique_names(module)
    expander = _Expander(module, staying)
    functions = {name: Function(name, expander.body(name)) for name in module.functions if name in staying}
    return reached(attrs.evolve(module, functions=functions))


def reached(module: Module) -> Module:
    """The module without the functions that no run can get to."""
    needed = {module.entry, *reachable(call_graph(module), module.entry)}
    if needed == module.functions.keys():
        return module
    return attrs.evolve(module, functions={n: f for n, f in module.functions.items() if n in needed})


def separate_entry(module: Module) -> Module:
    """The module with an entry that nothing calls: a recursive one becomes a function that the new entry calls."""
    if module.entry not in recursive(module):
        return module
    entry = _free(f"{module.entry}.entry", set(module.functions))
    body = module.main.body
    params = tuple(attrs.evolve(x, name=f"{x.name}.given") for x in body.params)
    results = tuple(attrs.evolve(x, name=f"{n}.{x.name}.result") for n, x in enumerate(body.results))
    call = Call(f"{entry}.call", module.entry, params, results)
    functions = {entry: Function(entry, Region(params, (call,), results)), **module.functions}
    return attrs.evolve(module, functions=functions, entry=entry)


def unique_names(module: Module) -> Module:
    """The module with a name of its own for each value and operator; the entry keeps its names, others where free."""
    if len(module.functions) == 1:
        return module
    values, ops = set(module.constants), set[str]()
    order = {module.entry: module.main, **module.functions}
    functions = {name: Function(name, _unique(function.body, values, ops)) for name, function in order.items()}
    return attrs.evolve(module, functions={name: functions[name] for name in module.functions})


def _unique(region: Region, values: set[str], ops: set[str]) -> Region:
    renamed: dict[str, Value] = {}
    for value in defined(region):
        renamed[value.name] = attrs.evolve(value, name=_free(value.name, values))
    made = region_with_values(region, lambda x: renamed.get(x.name, x))
    return with_op_names(made, lambda op: _free(op.name, ops))


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; takes it."""
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    taken.add(found)
    return found


def defined(region: Region) -> Iterator[Value]:
    """Every value that a region and those inside it define."""
    yield from region.params
    for op in region.ops:
        yield from (x for x in op.outputs if x is not None)
        for inner in bodies(op):
            yield from defined(inner)


class _Expander:
    def __init__(self, module: Module, kept: frozenset[str]) -> None:
        self.module = module
        self.kept = kept
        regions = [x.body for x in module.functions.values()]
        self.values = {*module.constants, *(v.name for x in regions for v in defined(x))}
        self.ops = {op.name for x in regions for op in _operators(x)}
        self.made = 0
        self._bodies: dict[str, Region] = {}

    def body(self, name: str) -> Region:
        """The function's body without calls that can be expanded. Static nesting bounds how deep this goes."""
        if name not in self._bodies:
            self._bodies[name] = self._region(self.module.functions[name].body, {})
        return self._bodies[name]

    def _region(self, region: Region, outer: Mapping[str, Value]) -> Region:
        stands = dict(outer)

        def of(x: Value) -> Value:
            return stands.get(x.name, x)

        ops: list[Op] = []
        for op in region.ops:
            match op:
                case Call() if op.function not in self.kept:
                    body = self._copy(self.body(op.function), tuple(map(of, op.inputs)), op)
                    ops += body.ops
                    stands.update(zip((x.name for x in op.outputs), body.results, strict=True))
                case _:
                    ops.append(with_values(op, of, lambda inner: self._region(inner, stands)))
        return Region(region.params, tuple(ops), tuple(map(of, region.results)))

    def _copy(self, body: Region, args: tuple[Value, ...], call: Call) -> Region:
        """A function's body with the arguments in the place of its parameters and with names of its own."""
        self.made += sum(1 for _ in _operators(body))
        if self.made > LARGEST:
            raise UnsupportedError(
                f"Expanding the call {call.name!r} of {call.function!r} comes to more than {LARGEST} operators.",
                "Call it from fewer places, or in a loop.",
            )
        fresh = _unique(body, self.values, self.ops)
        given = dict(zip((x.name for x in fresh.params), args, strict=True))
        return region_with_values(fresh, lambda x: given.get(x.name, x))


def _operators(region: Region) -> Iterator[Op]:
    for op in region.ops:
        yield op
        for inner in bodies(op):
            yield from _operators(inner)
