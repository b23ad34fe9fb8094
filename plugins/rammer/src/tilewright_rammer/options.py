"""The table `[options.rammer]` of a configuration."""

from __future__ import annotations

import attrs
from attrs.validators import ge, in_, instance_of

MERGING = ("list", "waves")
"""The policies by which units may wait for each other."""
POLICIES = ("quickest", *MERGING, "launches")


@attrs.frozen
class RammerOptions:
    """How rPrograms are made.

    Args:
        policy: "list", tasks in the order of the critical path with waits from producer to consumer; "waves", the
            paper's wavefronts, each behind a barrier or in another launch, whichever takes less; "quickest", of these
            two the one that is predicted to take less; or "launches", wavefronts of which each is a launch of its own,
            in which nothing waits. The last is what happens whatever this says where a device does not promise that
            units are at work at once.
        select: whether other kernels of the proposer's set may take the place of an operator's fastest one, where
            operators side by side need less of the device (the paper's SelectRKernels).
        placement: whether a unit prefers tasks whose weights it has used before.
        keep: whether units of a CUDA device keep weights that are used again in shared memory, as far as there is room.
        prefetch: whether units of a CUDA device fetch the weights that a task does not find there into shared memory
            before they wait for its other operands.
        most: operators of one rProgram.
        gain: the least share of the separate launches' time that an rProgram has to save; a negative one also lets it
            take longer by as much.
        measure: whether launches are measured before they are kept: as they are apart, and merged in each way that is
            tried. Without, the cost model decides.
    """

    policy: str = attrs.field(default="quickest", validator=in_(POLICIES))
    select: bool = attrs.field(default=True, validator=instance_of(bool))
    placement: bool = attrs.field(default=True, validator=instance_of(bool))
    keep: bool = attrs.field(default=True, validator=instance_of(bool))
    prefetch: bool = attrs.field(default=False, validator=instance_of(bool))
    most: int = attrs.field(default=16384, validator=[instance_of(int), ge(2)])
    gain: float = attrs.field(default=0.03, converter=float)
    measure: bool = attrs.field(default=False, validator=instance_of(bool))
