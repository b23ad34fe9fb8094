"""Which functions of a module call which, and how deep calls may nest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tilewright.errors import InputError
from tilewright.ir.module import Module
from tilewright.ir.ops import Call, Region, bodies


def calls_in(region: Region) -> Iterator[Call]:
    """Every call in a region and in the regions inside it, in the order of the text."""
    for op in region.ops:
        if isinstance(op, Call):
            yield op
        for inner in bodies(op):
            yield from calls_in(inner)


def call_graph(module: Module) -> dict[str, tuple[str, ...]]:
    """For each function the functions that it calls, in the order of the first call."""
    return {
        name: tuple(dict.fromkeys(x.function for x in calls_in(function.body)))
        for name, function in module.functions.items()
    }


def reachable(graph: Mapping[str, Iterable[str]], start: str) -> tuple[str, ...]:
    """The functions that a call of `start` may run besides it, nearest first; `start` only if it recurses."""
    found: dict[str, None] = {}
    todo = [start]
    for name in todo:
        for callee in graph.get(name, ()):
            if callee not in found:
                found[callee] = None
                todo.append(callee)
    return tuple(found)


def recursive(module: Module) -> frozenset[str]:
    """The functions that may run again while they run, directly or through others."""
    graph = call_graph(module)
    return frozenset(name for name in graph if name in reachable(graph, name))


def too_deep(function: str, depth: int) -> InputError:
    """The error of a call beyond the bound."""
    return InputError(
        f"The recursion of function {function!r} is deeper than its bound of {depth} calls.",
        f"Raise the bound (ModuleBuilder(depth={2 * depth}), or `depth {2 * depth}` in the module's text), or give it "
        "an input that ends sooner.",
    )
