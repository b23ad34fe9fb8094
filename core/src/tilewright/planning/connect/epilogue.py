"""`connect = "epilogue"`: element-wise consumers and data movements join a kernel; nothing else does.

This is the default and the baseline of every ablation. Movements are read through first (`rewrites.movement`). Then a
reduction, a contraction or a lone element-wise operator starts a group, and an element-wise consumer joins it when
each of its points needs just the element that the group has just computed.

`make(absorb=True)` goes further, for connectors that build on this one: where an element-wise group reads others that
are element-wise, it takes them in, and small ones are computed again by each of their readers (`connect.again`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

import attrs

from tilewright.ir.group import ControlItem, Cover, Group, Level
from tilewright.ir.ops import Call, If, Loop, OnnxNode, Op, Region, TensorOp, Value, bodies
from tilewright.planning.connect.again import computed_again
from tilewright.planning.connect.layouts import laid_out
from tilewright.planning.connect.order import topological
from tilewright.planning.record import in_kernel
from tilewright.planning.requests import Connect, Request
from tilewright.planning.session import Session
from tilewright.rewrites.movement import read_through_movements
from tilewright.views.kernel import KernelSpec, append_consumer, is_elementwise, normalise, spec_of
from tilewright.views.layout import part_offset

MAX_READS = 32
"""Reads of one kernel: beyond it, one more operand costs more registers than a launch saves."""


@attrs.frozen
class _Reason:
    """Why an operator stands where it does: the kernels that it might have joined, and what kept it from each."""

    why: str
    kept_from: tuple[tuple[str, str], ...] = ()


@attrs.define
class _Growing:
    """A group while it grows.

    Args:
        members: its operators by position in the region; none once another group has taken it in.
        spec: its specification so far; None for what nothing joins: no loop nest, or a part of an input.
        level: above those of all groups that it reads from.
    """

    members: list[int]
    spec: KernelSpec | None
    level: int = 0


def make(absorb: bool = False) -> Connect:
    """The service.

    Args:
        absorb: whether an element-wise group takes in the element-wise groups that it reads, and small ones are
            computed by their readers.
    """

    def connect(region: Region, request: Request) -> Cover:
        simpler = laid_out(read_through_movements(region, request.session.inputs), request.session)
        connector = _Connector(simpler, absorb, request.session.inputs)
        if absorb:
            kernels = [x.members for x in connector.groups if x.members]
            fewer, names = computed_again(simpler, kernels, request.session, MAX_READS)
            for name in names:
                why = "each of its readers computes the elements that it needs itself, sooner than a kernel starts"
                request.session.decide("connect", name, "computed again", why=why)
            if names:
                simpler, connector = fewer, _Connector(fewer, absorb, request.session.inputs)
                region = attrs.evolve(region, ops=tuple(op for op in region.ops if op.name not in names))
        _record(request.session, region, connector)
        items = [
            ControlItem(op, tuple(connect(body, request) for body in bodies(op)))
            if isinstance(op := simpler.ops[growing.members[0]], Loop | If | Call)
            else connector.group(growing)
            for growing in connector.groups
            if growing.members
        ]
        return Cover(simpler, topological(items))

    return connect


def _record(session: Session, region: Region, connector: _Connector) -> None:
    """Says of each operator which kernel it is in and why, and of each movement that it is read through."""
    for i, op in enumerate(connector.ops):
        reason = connector.reasons[i]
        others = [{**in_kernel(kernel), "refused": refusal} for kernel, refusal in reason.kept_from]
        if not isinstance(op, Loop | If | Call):
            session.decide("connect", op.name, in_kernel(connector.kernel_of(i)), others, why=reason.why)
    kept = {op.name for op in connector.ops}
    for op in region.ops:
        if op.name not in kept:
            session.decide("connect", op.name, "read through", why="its readers read its operand in its place")


class _Connector:
    def __init__(self, region: Region, absorb: bool, inputs: Container[str] = ()) -> None:
        self.ops: Sequence[Op] = region.ops
        self.consumers: dict[Value, list[int]] = {}
        for i, op in enumerate(self.ops):
            for value in op.inputs:
                if value is not None:
                    self.consumers.setdefault(value, []).append(i)
        self.outside = {*region.results, *(v for op in self.ops for body in bodies(op) for v in body.captured)}
        self.groups: list[_Growing] = []
        self.owner: dict[Value, int] = {}
        self.reasons: list[_Reason] = []
        for i, op in enumerate(self.ops):
            number = self._join(i, op)
            if number is None:
                number = len(self.groups)
                nest = op if isinstance(op, TensorOp) and part_offset(op, inputs) is None else None
                self.groups.append(_Growing([i], spec_of(nest) if nest else None))
            self.owner.update((v, number) for v in op.outputs if v is not None)
            self._lift(number)
            if absorb:
                self._absorb(number)

    def kernel_of(self, i: int) -> str:
        """Name of the group that operator `i` stands in."""
        return self._name(next(self.owner[v] for v in self.ops[i].outputs if v is not None))

    def _name(self, number: int) -> str:
        return self.ops[self.groups[number].members[0]].name

    def _join(self, i: int, op: Op) -> int | None:
        """Adds the operator to the group of one of its operands, if it can; the group's number or None."""
        if not (isinstance(op, TensorOp) and is_elementwise(op)):
            self.reasons.append(_Reason("it is not element-wise, so it starts a kernel"))
            return None
        sources = {self.owner[v] for v in op.inputs if v in self.owner}
        refusals: list[tuple[str, str]] = []
        # The youngest first: its values are still warm, and the older ones stay free for their other consumers.
        for number in sorted(sources, reverse=True):
            refusal = self._refusal(i, op, number)
            if not refusal:
                why = f"each of its points needs just the element that {self._name(number)} has computed"
                self.reasons.append(_Reason(why, tuple(refusals)))
                return number
            refusals.append((self._name(number), refusal))
        why = "no kernel of its operands takes it" if sources else "no kernel makes its operands"
        self.reasons.append(_Reason(f"{why}, so it starts one", tuple(refusals)))
        return None

    def _refusal(self, i: int, op: TensorOp, number: int) -> str:
        """Adds the element-wise operator to a group, or says why it cannot."""
        growing = self.groups[number]
        if growing.spec is None:
            return "it is no loop nest"
        if (reads := len(growing.spec.reads) + len(op.reads)) > MAX_READS:
            return f"the kernel would have {reads} reads, more than {MAX_READS}"
        if self._passes({self.owner[v] for v in op.inputs if v in self.owner} - {number}, number):
            return "another operand needs the kernel's results"
        inside = {*growing.members, i}
        keep = frozenset(v.name for v in growing.spec.outputs if self._leaves(v, inside))
        spec = append_consumer(growing.spec, op, keep)
        if spec is None:
            return "its points are not the kernel's"
        growing.spec = spec
        growing.members.append(i)
        return ""

    def _passes(self, groups: Iterable[int], number: int) -> bool:
        """Whether one of the groups, or a group that they read from, reads from group `number`: a group that reads from
        both would close a circle by joining it."""
        level = self.groups[number].level
        seen: set[int] = set()
        todo = list(groups)
        while todo:
            current = todo.pop()
            if current == number:
                return True
            if current not in seen and self.groups[current].level > level:
                seen.add(current)
                todo.extend(self._below(current))
        return False

    def _absorb(self, number: int) -> None:
        """Takes into an element-wise group the element-wise groups that it reads, as far as it can."""
        for maker in sorted(set(self._below(number)), reverse=True):
            if self.groups[maker].spec is None:
                continue
            members = sorted((*self.groups[maker].members, *self.groups[number].members))
            if not all(is_elementwise(self.ops[i]) for i in members):
                continue
            if self._passes(set(self._below(number)) - {maker}, maker):
                continue
            spec = normalise(self.group(_Growing(members, None)))
            if spec is None or len(spec.reads) > MAX_READS or not self._same_points(maker, spec):
                continue
            self._take(number, maker, _Growing(members, spec, self.groups[number].level))

    def _same_points(self, maker: int, spec: KernelSpec) -> bool:
        """Whether nothing of a group would be computed at more points than the group has."""
        made = [v for i in self.groups[maker].members for v in self.ops[i].outputs if v is not None]
        return all(v.shape == spec.stores[0].write.value.shape for v in made)

    def _take(self, number: int, maker: int, whole: _Growing) -> None:
        """Makes two groups one."""
        for i in self.groups[maker].members:
            self.owner.update((v, number) for v in self.ops[i].outputs if v is not None)
            kept_from = self.reasons[i].kept_from
            why = f"{self._name(number)}, which needs its elements just where it computes its own, computes them"
            self.reasons[i] = _Reason(why, kept_from)
        self.groups[maker].members = []
        self.groups[number] = whole
        self._lift(number)
        for reader in set(self._above(number)):
            self._lift(reader)

    def _below(self, number: int) -> Iterator[int]:
        """Groups that a group reads from."""
        values = (v for member in self.groups[number].members for v in self.ops[member].inputs)
        return (self.owner[v] for v in values if v in self.owner and self.owner[v] != number)

    def _above(self, number: int) -> Iterator[int]:
        """Groups that read from a group."""
        made = (v for member in self.groups[number].members for v in self.ops[member].outputs)
        readers = (self.ops[i] for v in made if v is not None for i in self.consumers.get(v, []))
        return (self.owner[v] for op in readers for v in op.outputs if v in self.owner and self.owner[v] != number)

    def _lift(self, number: int) -> None:
        """Raises the level of a group that reads more than before, and of those that it would reach."""
        todo = [number]
        while todo:
            current = todo.pop()
            growing = self.groups[current]
            level = max((self.groups[x].level + 1 for x in self._below(current)), default=0)
            if level > growing.level:
                growing.level = level
                todo.extend(self._above(current))

    def _leaves(self, value: Value, inside: set[int]) -> bool:
        """Whether a value is read by anything but the operators `inside`."""
        users = self.consumers.get(value, [])
        return value in self.outside or not users or any(user not in inside for user in users)

    def group(self, growing: _Growing) -> Group:
        """The finished group. A value that members and others read is both stored and passed on."""
        inside = set(growing.members)
        ops = [self.ops[i] for i in growing.members]
        made = [v for op in ops for v in op.outputs if v is not None]
        levels: tuple[tuple[str, Level], ...] = tuple(
            (v.name, "register") for v in made if any(user in inside for user in self.consumers.get(v, []))
        )
        kernel_ops = tuple(op for op in ops if not isinstance(op, OnnxNode | Loop | If | Call))
        return Group(ops[0].name, kernel_ops, tuple(v for v in made if self._leaves(v, inside)), levels)
