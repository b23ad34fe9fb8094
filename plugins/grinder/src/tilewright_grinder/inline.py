"""`inline_functions` (bitwise): bodies of functions in the places of their calls, where that leaves no recursion open.

Functions that cannot recurse, and of functions that call each other those that do not call themselves, so that what
recurses is a function that calls itself. An inlined call is no longer one of the calls that the module's depth counts.
"""

from __future__ import annotations

from tilewright.ir.calls import calls_in
from tilewright.ir.module import Module
from tilewright.rewrites.calls import expand_calls, reached
from tilewright_grinder.editor import Notes, count


def inline_functions(module: Module, most: int, notes: Notes) -> Module:
    """The module without the functions whose calls come to at most `most` operators, one after the other."""
    module = reached(module)
    refused: set[str] = set()
    while True:
        calls = {name: list(calls_in(f.body)) for name, f in module.functions.items()}
        places = {name: sum(x.function == name for own in calls.values() for x in own) for name in module.functions}
        sizes = {name: count(f.body) * places[name] for name, f in module.functions.items()}
        closed = [
            name
            for name in module.functions
            if name not in {module.entry, *refused} and not any(x.function == name for x in calls[name])
        ]
        if not closed:
            return module
        smallest = min(closed, key=lambda name: (sizes[name], name))
        what = f"{places[smallest]} calls, {sizes[smallest]} operators in their places"
        if sizes[smallest] > most:
            notes.add(smallest, "called", f"{what}; `inline` allows {most}")
            refused.add(smallest)
            continue
        module = expand_calls(module, kept=module.functions.keys() - {smallest})
        notes.add(smallest, "inlined", what)
