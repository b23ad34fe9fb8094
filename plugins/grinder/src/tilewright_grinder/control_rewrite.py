"""`control_rewrite = "grinder"`: control flow is removed, unrolled, predicated and skewed before it is placed."""

from __future__ import annotations

import attrs

from tilewright.ir.module import Module
from tilewright.ir.ops import Call, If, Loop
from tilewright.planning.record import control_in
from tilewright.planning.requests import ControlRewrite, Request
from tilewright.rewrites.live import live
from tilewright_grinder.dead import lift_constant_states, remove_dead
from tilewright_grinder.editor import Editor, Notes, everywhere
from tilewright_grinder.inline import inline_functions
from tilewright_grinder.invariant import move_invariants
from tilewright_grinder.leading import split_leading
from tilewright_grinder.options import GrinderOptions
from tilewright_grinder.partial import unroll_partly
from tilewright_grinder.predicate import predicate_branches
from tilewright_grinder.scalars import fold_scalars
from tilewright_grinder.settle import settle_results
from tilewright_grinder.unroll import unroll_loops
from tilewright_grinder.wavefront import skew_recurrences


def make(options: GrinderOptions) -> ControlRewrite:
    """The service."""

    def rewrite(module: Module, request: Request) -> Module:
        session = request.session
        if not any(isinstance(x, Loop | If | Call) for f in module.functions.values() for x in f.body.ops):
            session.decide("control_rewrite", "module", control_in(module.main.body), why="it has no control flow")
            return module
        notes = Notes()
        module = inline_functions(module, options.inline, notes)
        editor = Editor(module, options, session.device, notes)
        known = frozenset(module.constants)
        module = rewritten(module, editor)
        session.add_constants({name: data for name, data in module.constants.items() if name not in known})
        for subject, entries in notes.found.items():
            chosen = [what for what, _ in entries]
            session.decide("control_rewrite", subject, chosen, why="; ".join(why for _, why in entries))
        return module

    return rewrite


def rewritten(module: Module, editor: Editor) -> Module:
    """The module after all rewrites but inlining.

    Order: what is known is folded first and after everything that makes more known. Loops are unrolled before branches
    are judged, and skewed when their bodies are final. Trips that are joined leave branches, which are judged again.
    """
    module = cleaned(module, editor)
    module = cleaned(everywhere(module, unroll_loops, editor), editor)
    module = everywhere(module, split_leading, editor)
    module = everywhere(module, predicate_branches, editor)
    module = cleaned(everywhere(module, move_invariants, editor), editor)
    module = cleaned(everywhere(module, skew_recurrences, editor), editor)
    module = everywhere(module, unroll_partly, editor)
    module = cleaned(everywhere(module, predicate_branches, editor), editor)
    module = settle_results(module, editor)
    used = {x.name for function in module.functions.values() for x in function.body.captured}
    return attrs.evolve(module, constants={name: x for name, x in editor.constants.items() if name in used})


def cleaned(module: Module, editor: Editor) -> Module:
    """The module with what is known folded, and without what nothing needs."""
    module = everywhere(fold_scalars(module, editor), lift_constant_states, editor)
    functions = {
        name: attrs.evolve(f, body=remove_dead(live(f.body), editor)) for name, f in module.functions.items()
    }
    return attrs.evolve(module, functions=functions)
