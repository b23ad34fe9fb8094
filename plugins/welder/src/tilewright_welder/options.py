"""The table `[options.welder]` of a configuration."""

from __future__ import annotations

import attrs
from attrs.validators import ge, gt, instance_of


@attrs.frozen
class WelderOptions:
    """How far Welder looks for welds.

    Args:
        budget: processor seconds that looking may take for a region, so that a busy machine finds the same; what is
            found by then is chosen from. Planning is repeatable only where the budget is not used up, which `explain`
            then says.
        most: kernels of the default cover that are welded into one at most.
        gain: the least share of the separate kernels' time that a weld has to save.
    """

    budget: float = attrs.field(default=45.0, converter=float, validator=gt(0.0))
    most: int = attrs.field(default=12, validator=[instance_of(int), ge(2)])
    gain: float = attrs.field(default=0.02, converter=float, validator=ge(0.0))
