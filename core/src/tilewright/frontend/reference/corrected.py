"""Operators of which the evaluator's own version is not what ONNX's text says."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun


class Optional(OpRun):
    """The evaluator's puts the value into a list, which nothing takes off again."""

    op_domain = ""

    def _run(self, x: Any = None, type: Any = None) -> tuple[Any]:
        return (x,)

    def _check_and_fix_outputs(self, res: tuple[Any]) -> tuple[Any]:
        return res  # None is a result here


class SequenceInsert(OpRun):
    """The evaluator's takes the position behind the last element for the first one."""

    op_domain = ""

    def _run(self, items: Any, tensor: Any, position: Any = None) -> tuple[Any]:
        count = len(items)
        at = count if position is None else int(np.asarray(position).reshape(()))
        if not -count <= at <= count:
            raise IndexError(f"the position {at} in a sequence of {count}")
        found = list(items)
        found.insert(at, tensor)
        return (found,)


CORRECTED: list[type[OpRun]] = [Optional, SequenceInsert]
