"""`connect = "acme.chains"`: an element-wise operator joins the one that makes its first operand, up to a
length.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Call, If, Loop, OnnxNode, Region, TensorOp, Value, bodies
from tilewright.planning.connect.order import topological
from tilewright.planning.requests import Connect, Request
from tilewright.views.kernel import KernelSpec, append_consumer, is_elementwise, spec_of


@frozen
class ChainOptions:
    """Options of the connector.

    Args:
        longest: operators in one kernel.
    """

    longest: int = field(default=4, validator=ge(1))


@frozen
class _Chain:
    ops: tuple[TensorOp, ...]
    spec: KernelSpec

    @property
    def last(self) -> Value:
        return self.ops[-1].outputs[0]


def make(options: ChainOptions) -> Connect:
    """The service."""

    def connect(region: Region, request: Request) -> Cover:
        users = _users(region)
        chains: dict[Value, _Chain] = {}
        others: list[Group | ControlItem] = []
        for op in region.ops:
            if isinstance(op, Loop | If | Call):
                others.append(ControlItem(op, tuple(connect(body, request) for body in bodies(op))))
            elif isinstance(op, TensorOp) and len(op.outputs) == 1:
                chain = _joined(op, chains, users, options.longest) or _Chain((op,), spec_of(op))
                chains[chain.last] = chain
            else:
                assert not isinstance(op, OnnxNode)
                others.append(Group(op.name, (op,), tuple(op.outputs)))
        groups = [_group(chain) for chain in chains.values()]
        return Cover(region, topological([*others, *groups]))

    return connect


def _users(region: Region) -> dict[Value, int]:
    """How often each value is read, results of the region included."""
    counts: dict[Value, int] = {}
    captured = (value for op in region.ops for body in bodies(op) for value in body.captured)
    for value in (*region.results, *captured, *(v for op in region.ops for v in op.inputs if v is not None)):
        counts[value] = counts.get(value, 0) + 1
    return counts


def _joined(op: TensorOp, chains: dict[Value, _Chain], users: dict[Value, int], longest: int) -> _Chain | None:
    """The chain that makes the only read of `op`, with `op` at its end; it is taken out of `chains`."""
    reads = {value for value in op.inputs if value is not None}
    sources = [value for value in reads if value in chains]
    if len(sources) != 1 or not is_elementwise(op):
        return None
    chain = chains[sources[0]]
    if users[chain.last] != 1 or len(chain.ops) >= longest:
        return None
    spec = append_consumer(chain.spec, op, frozenset())
    if spec is None:
        return None
    del chains[sources[0]]
    return _Chain((*chain.ops, op), spec)


def _group(chain: _Chain) -> Group:
    inside = tuple((op.outputs[0].name, "register") for op in chain.ops[:-1])
    return Group(chain.ops[0].name, chain.ops, (chain.last,), inside)  # type: ignore[arg-type]
