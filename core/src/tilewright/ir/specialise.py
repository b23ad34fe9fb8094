"""Specialising is substitution: a form of the IR with numbers in the place of its symbols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from tilewright.ir.expr import Expr, const, static, substitute
from tilewright.ir.module import Module
from tilewright.ir.program import Kernel, Program

_Form = TypeVar("_Form", Module, Program)


def specialised(form: _Form, values: Mapping[str, int]) -> _Form:
    """The module or program for values of all of its symbols.

    Kernels have as many tasks as they run for these; storage stays as large as it is by the bounds.
    """
    numbers: dict[str, Expr] = {name: const(number) for name, number in values.items()}

    def visit(part: Any) -> Any:
        match part:
            case Expr():
                return substitute(part, numbers)
            case tuple():
                return tuple(map(visit, part))
            case Mapping():
                return {key: visit(item) for key, item in part.items()}
            case Kernel():
                return _counted(rebuilt(part))
            case _ if attrs.has(type(part)):
                return rebuilt(part)
        return part

    def rebuilt(part: Any) -> Any:
        fields = ((x.name, getattr(part, x.name)) for x in attrs.fields(type(part)))
        changed = {name: new for name, old in fields if (new := visit(old)) is not old}
        return attrs.evolve(part, **changed) if changed else part

    found: _Form = attrs.evolve(rebuilt(form), symbols=())
    return found


def _counted(kernel: Kernel) -> Kernel:
    """A kernel whose number of tasks is known now."""
    choice = kernel.choice
    if choice.count is None:
        return kernel
    resources = attrs.evolve(choice.resources, tasks=static(choice.count))
    return attrs.evolve(kernel, choice=attrs.evolve(choice, resources=resources, count=None), symbols=())
