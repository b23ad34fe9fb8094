"""The default of the slot `control_rewrite`."""

from __future__ import annotations

from tilewright.ir.module import Module
from tilewright.planning.record import control_in
from tilewright.planning.requests import ControlRewrite, Request


def identity() -> ControlRewrite:
    """Leaves the control flow as it is."""

    def rewrite(module: Module, request: Request) -> Module:
        found = control_in(module.main.body)
        request.session.decide("control_rewrite", "module", found, why="left as it is")
        return module

    return rewrite
