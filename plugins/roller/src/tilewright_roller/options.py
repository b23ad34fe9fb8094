"""The table `[options.roller]` of a configuration."""

from __future__ import annotations

import attrs
from attrs.validators import ge, instance_of


@attrs.frozen
class RollerOptions:
    """How much Roller constructs, and measures.

    Args:
        topk: how many choices it gives for a kernel.
        measure: how many choices, the best by the model, are built and measured, so that the quickest is taken (the
            paper's top K; there 10). They come before those of `topk`, and need not be better than others in any
            respect by the model. With 0 the model decides. It needs the device that is compiled for. Kernels without
            fixed shapes are not measured, nor is what a technique asks for under limits of its own (an envelope, loops
            around it, values to keep on chip, a budget), of which a trial knows nothing.
        beam: how many rTiles grow side by side.
        shrink: whether kernels of fewer tasks than units get smaller tiles (the paper's answer to small operators).
    """

    topk: int = attrs.field(default=10, validator=[instance_of(int), ge(1)])
    measure: int = attrs.field(default=0, validator=[instance_of(int), ge(0)])
    beam: int = attrs.field(default=4, validator=[instance_of(int), ge(1)])
    shrink: bool = True
