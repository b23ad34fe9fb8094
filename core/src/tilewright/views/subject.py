"""What a recipe matches: a group as its loop nest, as several stages, or as an operator that is never joined."""

from __future__ import annotations

from collections.abc import Container

from tilewright.ir.group import Group
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Routine, ScanOp
from tilewright.views.kernel import KernelSpec, normalise
from tilewright.views.staged import StagedSpec, is_staged, staged_of

Subject = KernelSpec | StagedSpec | ScanOp | Routine


def subject_of(
    group: Group, constants: Container[str] = (), symbols: tuple[Symbol, ...] = ()
) -> Subject | None:
    """What recipes see of a group; None when it is nothing that a recipe could take.

    Args:
        constants: names of the values that are known at compile time.
        symbols: those of the module, or of the group.
    """
    if len(group.ops) == 1 and isinstance(group.ops[0], ScanOp | Routine):
        return group.ops[0]
    if is_staged(group):
        return staged_of(group, constants, symbols)
    return normalise(group, constants, symbols)
