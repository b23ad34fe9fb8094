"""Modules rewritten and interpreted, beside what they were before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import attrs
import numpy as np

from tilewright.device.model import load_device
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.ops import Loop, Op
from tilewright.ir.verify import verify_module
from tilewright.testing.control import control_case
from tilewright_grinder.control_rewrite import rewritten
from tilewright_grinder.dead import lift_constant_states, remove_dead
from tilewright_grinder.editor import Change, Editor, Notes, everywhere, operators
from tilewright_grinder.invariant import move_invariants
from tilewright_grinder.leading import split_leading
from tilewright_grinder.options import GrinderOptions
from tilewright_grinder.partial import unroll_partly
from tilewright_grinder.predicate import predicate_branches
from tilewright_grinder.scalars import fold_scalars
from tilewright_grinder.settle import settle_results
from tilewright_grinder.unroll import unroll_loops

Rewrite = Callable[[Module, Editor], Module]

EAGER = GrinderOptions(unroll=1000, factor=3, branch=1.0, small=1000, wavefront="always")
"""Options by which everything is done that may be."""


def settled(change: Change) -> Rewrite:
    return lambda module, editor: settle_results(everywhere(module, change, editor), editor)


def _without_dead(module: Module, editor: Editor) -> Module:
    found = {name: attrs.evolve(f, body=remove_dead(f.body, editor)) for name, f in module.functions.items()}
    return attrs.evolve(module, functions=found)


def _folded(module: Module, editor: Editor) -> Module:
    return settle_results(fold_scalars(module, editor), editor)


REWRITES: Mapping[str, Rewrite] = {
    "dead": _without_dead,
    "fold": _folded,
    "invariant": settled(move_invariants),
    "leading": settled(split_leading),
    "lift": settled(lift_constant_states),
    "partial": settled(unroll_partly),
    "predicate": settled(predicate_branches),
    "unroll": settled(unroll_loops),
    "all": rewritten,
}


def edited(
    module: Module, rewrite: Rewrite, options: GrinderOptions = EAGER, device: str = "h200"
) -> tuple[Module, Notes]:
    """The module after a rewrite, verified, and what was noted."""
    notes = Notes()
    made = rewrite(module, Editor(module, options, load_device(device), notes))
    verify_module(made)
    return made, notes


def moved_parameters(module: Module) -> list[str]:
    """Results of loops' bodies that are a parameter of another place, which the planner does not expect."""
    loops = [x for f in module.functions.values() for x in operators(f.body) if isinstance(x, Loop)]
    pairs = [(x.body.params, n, result) for x in loops for n, result in enumerate(x.body.results, 1)]
    return [result.name for params, n, result in pairs if result in params and params.index(result) != n]


def equal(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether the outputs agree in every bit, NaNs as NaNs."""
    return all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(found, wanted, strict=True)
    )


@cache
def random_case(seed: int) -> tuple[Module, tuple[Any, ...], tuple[Any, ...]]:
    """A random model with control flow: module, inputs, outputs."""
    case = control_case(seed)
    module = load(case.model)
    feeds = tuple(np.asarray(case.feeds[name]) for name in module.input_names)
    return module, feeds, interpret(module, feeds)


def kinds(module: Module) -> list[type[Op]]:
    """The classes of all operators of the entry, those inside of others too."""
    return [type(x) for x in operators(module.main.body)]
