"""Chains of contractions: each stage's rows operand is what the stage before made, its columns operand is fetched.

What a stage makes has a row for each of the rows that all stages share, and its columns are what the next stage sums
over. That is seen in addresses: the one stores where the other reads, with the same fused numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.bounds import simplify
from tilewright.ir.expr import Expr, const, substitute, variables
from tilewright.ir.ops import Axis
from tilewright.views.kernel import KernelSpec
from tilewright.views.staged import StagedSpec
from tilewright_backends.lower.flat import FlatSpec, FlatStore, coefficient
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.gpu.common import extent, flat_spec, points
from tilewright_backends.recipes.gpu.roles import roles_of
from tilewright_backends.recipes.gpu.tensor import HalfOperand, half_operand, packs


@attrs.frozen
class Link:
    """One contraction of a chain.

    Args:
        kernel: the stage.
        spec: with flat addresses.
        roles: of its axes; the rows are those of the chain.
        rows, columns: the factors. The rows of every link but the first are what the link before makes.
        first_slot: number of its first read among those of all stages.
        passed: the store that the next link reads; None of the last.
        stores: those to memory.
    """

    kernel: KernelSpec
    spec: FlatSpec
    roles: Contraction
    rows: HalfOperand
    columns: HalfOperand
    first_slot: int
    passed: FlatStore | None
    stores: tuple[FlatStore, ...]

    @property
    def depth(self) -> int:
        """Points that it sums over."""
        return points(self.roles.k)

    @property
    def width(self) -> int:
        """Columns of its result."""
        return points(self.roles.n)

    @property
    def packed(self) -> int | None:
        """The slot of the columns operand, among the reads of all stages, where it is stored in another order."""
        return self.first_slot + self.columns.slot if packs(self.columns) else None


@attrs.frozen
class Chain:
    """Two contractions or more, in execution order."""

    links: tuple[Link, ...]

    @property
    def row_count(self) -> int:
        return points(self.links[0].roles.m)

    @property
    def dtype(self) -> str:
        """Of the factors."""
        return self.links[0].rows.dtype


def flat_chain(staged: StagedSpec) -> Chain | None:
    """The stages as a chain, or None when they are none."""
    if staged.symbols or len(staged.stages) < 2:
        return None
    links: list[Link] = []
    slot = 0
    for stage in staged.stages:
        link = _link(stage, slot, staged, links[-1] if links else None)
        if link is None or (link.passed is None) != (stage is staged.stages[-1]):
            return None
        links.append(link)
        slot += len(stage.reads)
    return Chain(tuple(links))


def _link(kernel: KernelSpec, first_slot: int, staged: StagedSpec, before: Link | None) -> Link | None:
    spec = flat_spec(kernel)
    roles = roles_of(spec) if spec is not None else None
    if spec is None or roles is None or roles.state != "float32" or not roles.k or roles.batch:
        return None
    kept = [s for s in spec.stores if s.value in staged.kept]
    inner = [i for i, x in enumerate(spec.reads) if x.value in staged.kept]
    if len(kept) > 1 or len(inner) != (before is not None):
        return None
    stores = tuple(s for s in spec.stores if s.value in staged.outputs)
    known = kernel.constants
    # Weights are columns, however the result lies in memory.
    for way in sorted((roles, roles.swapped()), key=lambda x: x.columns.constant_slot(spec, known) is None):
        rows, columns = (half_operand(spec, x, x.outer, way.k, known) for x in (way.rows, way.columns))
        if rows is None or columns is None or rows.dtype != columns.dtype or not _fetched(columns):
            continue
        link = Link(kernel, spec, way, rows, columns, first_slot, kept[0] if kept else None, stores)
        if before is None or (inner == [rows.slot] and _follows(link, before)):
            return link
    return None


def _fetched(operand: HalfOperand) -> bool:
    """Whether tiles of an operand are copied as they lie in memory, once it is stored as they want."""
    return operand.chunked or operand.constant


def _follows(link: Link, before: Link) -> bool:
    """Whether what a link reads at (row, reduction point) is what the other one stores at (row, column)."""
    store, read = before.passed, link.spec.reads[link.rows.slot]
    if store is None or store.value != read.value or read.guard is not None or store.guard is not None:
        return False
    if link.rows.dtype != before.rows.dtype:
        return False
    written = [_layout(store.address, x) for x in (before.roles.m, before.roles.n)]
    wanted = [_layout(read.address, x) for x in (link.roles.m, link.roles.k)]
    return None not in written and written == wanted and _start(store.address) == _start(read.address) == const(0)


def _layout(address: Expr, axes: Sequence[Axis]) -> tuple[tuple[int, int], ...] | None:
    """Extents and strides of fused axes, outermost first, neighbours joined where they are one; None if not linear."""
    found: list[tuple[int, int]] = []
    for axis in axes:
        size, stride = extent(axis), coefficient(address, axis.name)
        if stride is None:
            return None
        if found and found[-1][1] == stride * size:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def _start(address: Expr) -> Expr:
    """A linear address where all axes are zero."""
    return simplify(substitute(address, {x: const(0) for x in variables(address)}), {})
