"""The default of the slot `control_rewrite`."""

from __future__ import annotations

from tilewright.ir.module import Module
from tilewright.planning.requests import ControlRewrite, Request


def identity() -> ControlRewrite:
    """Leaves the control flow as it is."""

    def rewrite(module: Module, request: Request) -> Module:
        return module

    return rewrite
