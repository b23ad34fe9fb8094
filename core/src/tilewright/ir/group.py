"""Groups: which operators share a kernel, and at which memory level each edge between them lives. The second form."""

from __future__ import annotations

from typing import Literal

import attrs

from tilewright.ir.ops import Call, If, Loop, Region, Routine, ScanOp, TensorOp, Value

Level = Literal["register", "shared", "global"]
KernelOp = TensorOp | ScanOp | Routine


@attrs.frozen(cache_hash=True)
class Group:
    """Operators that become one kernel.

    Args:
        name: unique in the cover.
        ops: the operators in execution order. They may be rewritten ones; `trail` says how they came about.
        outputs: values that are read outside of the group, in the order of their definition.
        levels: (name, level) of each value that is produced and read inside. A value may be both inside and an output.
        trail: names of the algebraic rewrites applied, oldest first.
        stream: serial axis that several reductions share with a rescaling of their states (online softmax), or "".
    """

    name: str
    ops: tuple[KernelOp, ...]
    outputs: tuple[Value, ...]
    levels: tuple[tuple[str, Level], ...] = ()
    trail: tuple[str, ...] = ()
    stream: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ONNX nodes that its operators come from."""
        return tuple(dict.fromkeys(str(op.loc) for op in self.ops))

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read from outside, in the order of first use."""
        made = {x for op in self.ops for x in op.outputs}
        used = (x for op in self.ops for x in op.inputs if x is not None)
        return tuple(dict.fromkeys(x for x in used if x not in made))

    def level(self, value: str) -> Level:
        """Level of an internal edge (values without an entry go through global memory)."""
        return dict(self.levels).get(value, "global")


@attrs.frozen(cache_hash=True)
class ControlItem:
    """A control-flow operator of the region with the covers of its bodies."""

    op: Loop | If | Call
    bodies: tuple[Cover, ...]

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self.op.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.op.outputs


@attrs.frozen(cache_hash=True)
class Cover:
    """A region as groups in execution order. Every operator stands in at least one group (in two: recompute)."""

    region: Region
    items: tuple[Group | ControlItem, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of this region, without those of nested bodies."""
        return tuple(x for x in self.items if isinstance(x, Group))
