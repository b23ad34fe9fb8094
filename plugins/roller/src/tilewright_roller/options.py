"""The table `[options.roller]` of a configuration."""

from __future__ import annotations

import attrs
from attrs.validators import ge, instance_of


@attrs.frozen
class RollerOptions:
    """How much Roller constructs.

    Args:
        topk: how many choices it gives for a kernel.
        beam: how many rTiles grow side by side.
        shrink: whether kernels of fewer tasks than units get smaller tiles (the paper's answer to small operators).
    """

    topk: int = attrs.field(default=10, validator=[instance_of(int), ge(1)])
    beam: int = attrs.field(default=4, validator=[instance_of(int), ge(1)])
    shrink: bool = True
