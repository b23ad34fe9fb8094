"""Dead code: operators that no result depends on."""

from __future__ import annotations

import attrs

from tilewright.ir.ops import Op, Region


def live(region: Region) -> Region:
    """The region without the operators that its results do not depend on. Exact; nested regions stay as they are."""
    needed = {x.name for x in region.results}
    kept: list[Op] = []
    for op in reversed(region.ops):
        if any(x is not None and x.name in needed for x in op.outputs):
            kept.append(op)
            needed.update(x.name for x in op.inputs if x is not None)
    return attrs.evolve(region, ops=tuple(reversed(kept)))
