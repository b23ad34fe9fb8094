"""Functions as procedures of the host program: which parameters are passed, and which are read where they stand.

An argument that every call inside a procedure passes on as it got it is the same for the whole recursion, however deep.
It is not copied into the frames: the procedures read it where the call of the entry found it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from tilewright.ir.calls import call_graph, calls_in, reachable
from tilewright.ir.group import Cover
from tilewright.ir.module import Module
from tilewright.ir.ops import Call, Value
from tilewright.ir.program import HostCall, HostCopy, HostStep

PlaceOf = Callable[[str], str]


@attrs.frozen
class Functions:
    """How the functions of a module are called. Names of values are unique in the module.

    Args:
        params: of each function, by its name.
        shared: for a parameter that is the same throughout a recursion, the name under which all procedures read it.
        reads: for each function the names that it, and what it calls, reads so.
        copied: those that calls of the entry give different arguments, which are copied there.
        entry_calls: names of the calls that the entry makes.
        calls: for each function the functions that it calls.
        covers: of the functions, as far as the planner gives them.
        depth: calls that may be active at one time.
    """

    params: Mapping[str, tuple[Value, ...]] = attrs.field(factory=dict)
    shared: Mapping[str, str] = attrs.field(factory=dict)
    reads: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    copied: Mapping[str, str] = attrs.field(factory=dict)
    entry_calls: frozenset[str] = frozenset()
    calls: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    covers: Mapping[str, Cover] = attrs.field(factory=dict)
    depth: int = 0

    def passed(self, function: str) -> tuple[str, ...]:
        """The parameters that calls copy arguments into."""
        return tuple(x.name for x in self.params[function] if x.name not in self.shared)

    def steps(self, call: Call, place_of: PlaceOf) -> list[HostStep]:
        """The host steps of a call.

        Args:
            place_of: the name under which a value's bytes are stored.
        """
        args: list[str] = []
        steps: list[HostStep] = []
        for param, arg in zip(self.params[call.function], call.inputs, strict=True):
            if param.name not in self.shared:
                args.append(place_of(arg.name))
            elif param.name in self.copied and call.name in self.entry_calls:
                steps.append(HostCopy(place_of(arg.name), place_of(param.name)))
        reads = tuple(dict.fromkeys(place_of(x) for x in self.reads[call.function]))
        results = tuple(place_of(x.name) for x in call.outputs)
        return [*steps, HostCall(call.function, tuple(args), results, reads)]


def functions_of(module: Module) -> tuple[Functions, dict[str, str]]:
    """How the module's functions are called, and the value in whose place each shared parameter stands."""
    graph = call_graph(module)
    params = {name: f.body.params for name, f in module.functions.items() if name != module.entry}
    classes = _classes(module, params)
    shared = {name: members[0] for members in classes for name in members}
    given: dict[str, set[str]] = {}
    for call in calls_in(module.main.body):
        for param, arg in zip(params[call.function], call.inputs, strict=True):
            if param.name in shared:
                given.setdefault(shared[param.name], set()).add(arg.name)
    aliases = {name: first for name, first in shared.items() if name != first}
    copied = {name for name, args in given.items() if len(args) > 1}
    aliases.update((name, min(args)) for name, args in given.items() if name not in copied)
    reads: dict[str, tuple[str, ...]] = {}
    for name in params:
        used = (x.name for f in (name, *reachable(graph, name)) for x in params[f])
        reads[name] = tuple(dict.fromkeys(shared[x] for x in used if x in shared))
    targets = {name: first for name, first in shared.items() if first in copied}
    entry_calls = frozenset(x.name for x in calls_in(module.main.body))
    called = {name: graph[name] for name in params}
    return Functions(params, shared, reads, targets, entry_calls, called, depth=module.depth), aliases


def _classes(module: Module, params: Mapping[str, Sequence[Value]]) -> list[list[str]]:
    """Groups of parameters, at most one per function, that always are the same value during one call of the entry."""
    owner = {x.name: name for name, given in params.items() for x in given}
    root = {name: name for name in owner}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    varying: set[str] = set()
    for function in params:
        for call in calls_in(module.functions[function].body):
            for param, arg in zip(params[call.function], call.inputs, strict=True):
                if owner.get(arg.name) == function:
                    root[find(arg.name)] = find(param.name)
                else:
                    varying.add(param.name)
    groups: dict[str, list[str]] = {}
    for name in owner:
        groups.setdefault(find(name), []).append(name)
    return [
        members
        for members in groups.values()
        if not varying.intersection(members) and len({owner[x] for x in members}) == len(members)
    ]
