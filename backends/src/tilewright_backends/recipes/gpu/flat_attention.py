"""Attention as the GPU recipes see it: flat addresses, and its factors as tiles of shared memory."""

from __future__ import annotations

import math

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const, variables
from tilewright.ir.ops import Axis
from tilewright.recipes import Operand
from tilewright.views.attention import AttentionSpec, attention_of
from tilewright.views.staged import StagedSpec
from tilewright_backends.lower.flat import FlatSpec, flatten
from tilewright_backends.recipes.contraction import Contraction, contraction_of
from tilewright_backends.recipes.contraction import Operand as Factor
from tilewright_backends.recipes.gpu.common import ceil_div, points
from tilewright_backends.recipes.gpu.tensor import HalfOperand, half_operand

MOST = 128
"""Points of the depth and columns of the values: a warp keeps what belongs to its rows in registers."""


@attrs.frozen
class Attention:
    """What `attention` and `attention_simt` emit.

    Args:
        scores, output: the two contractions with flat addresses, over the axes of `spec`.
        query, key, value: the factors, with the depth, the depth and the columns as outer axes, as tiles of rows and of
            keys follow each other.
        result: the roles of `output`, its epilogue's coordinates.
    """

    spec: AttentionSpec
    scores: FlatSpec
    output: FlatSpec
    query: Factor
    key: Factor
    value: Factor
    result: Contraction

    @property
    def batch_count(self) -> int:
        return points(self.spec.batch)

    @property
    def row_count(self) -> int:
        return points(self.spec.rows)

    @property
    def key_count(self) -> int:
        return points((self.spec.keys,))

    @property
    def epilogue_reads(self) -> int:
        """Loads of a score's epilogue."""
        return len(self.scores.reads) - self.scores.body_reads

    def depth(self, unit: int) -> int:
        """Points of the depth, up to whole units."""
        return -(-points(self.spec.depth) // unit) * unit

    def columns(self, unit: int) -> int:
        """Columns, up to whole units."""
        return -(-points(self.spec.columns) // unit) * unit

    @property
    def rows(self) -> tuple[Axis, ...]:
        """The rows, as the axes that tiles of queries follow each other along."""
        return tuple(attrs.evolve(x, kind="reduce") for x in self.spec.rows)

    @property
    def keys(self) -> tuple[Axis, ...]:
        """The keys, likewise."""
        return (attrs.evolve(self.spec.keys, kind="reduce"),)

    @property
    def roles(self) -> dict[str, tuple[Axis, ...]]:
        spec = self.spec
        return {
            "batch": spec.batch,
            "rows": spec.rows,
            "keys": (spec.keys,),
            "depth": spec.depth,
            "columns": spec.columns,
        }

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes by role."""
        return {role: tuple(x.name for x in axes) for role, axes in self.roles.items()}


@attrs.frozen
class Sizes:
    """Points of each role, depth and columns up to whole units, and what follows for tiles of rows and of keys."""

    batch: int
    rows: int
    keys: int
    depth: int
    columns: int

    @property
    def extents(self) -> dict[str, int]:
        """The same by role."""
        return attrs.asdict(self)

    def trips(self, step: Expr) -> Expr:
        """Steps over the keys."""
        return ceil_div(self.keys, step)

    def tasks(self, block: Expr) -> Expr:
        """Tiles of rows."""
        return ceil_div(self.rows, block) * self.batch

    def scored(self, block: Expr, step: Expr) -> Expr:
        """Scores that are computed, those of incomplete tiles too."""
        return self.tasks(block) * block * self.trips(step) * step

    def flops(self, block: Expr, step: Expr) -> Expr:
        """Operations of both products."""
        return self.scored(block, step) * 2 * (self.depth + self.columns)

    def tile(self, rows: Expr, keys: Expr) -> dict[str, Expr]:
        """Points of a tile that has the whole depth and all columns."""
        return {"rows": rows, "keys": keys, "depth": const(self.depth), "columns": const(self.columns)}


def sizes_of(found: Attention, depth_unit: int, column_unit: int) -> Sizes | None:
    """The sizes, or None where heads are too wide."""
    depth, columns = found.depth(depth_unit), found.columns(column_unit)
    if max(depth, columns) > MOST:
        return None
    return Sizes(found.batch_count, found.row_count, found.key_count, depth, columns)


@attrs.frozen
class Halves:
    """The factors as 16-bit operands, the query with its rows as outer axes."""

    query: HalfOperand
    key: HalfOperand
    value: HalfOperand


def flat_attention(staged: StagedSpec) -> Attention | None:
    """The stages as attention, or None."""
    found = attention_of(staged)
    if found is None:
        return None
    scores, output = flatten(found.scores), flatten(found.output)
    first, second = contraction_of(scores), contraction_of(output)
    if first is None or second is None:
        return None
    depth = tuple(attrs.evolve(x, kind="spatial") for x in found.depth)
    query, key = (attrs.evolve(x, outer=depth) for x in (first.rows, first.columns))
    value = attrs.evolve(second.columns, outer=found.columns)
    rows = attrs.evolve(second.rows, outer=found.rows)
    result = attrs.evolve(second, rows=rows, columns=value, batch=found.batch)
    return Attention(found, scores, output, query, key, value, result)


def halves_of(found: Attention) -> Halves | None:
    """The factors where they are of 16 bits, and the weights of the values' dtype; otherwise None."""
    spec, none = found.spec, frozenset[str]()
    query = half_operand(found.scores, found.query, spec.rows, spec.depth, none)
    key = half_operand(found.scores, found.key, found.key.outer, found.keys, none)
    value = half_operand(found.output, found.value, spec.columns, found.keys, none)
    if query is None or key is None or value is None:
        return None
    if query.dtype != key.dtype or value.dtype != spec.weights.dtype:
        return None
    return Halves(query, key, value)


def operands_of_attention(found: Attention) -> tuple[Operand, ...]:
    """What the kernel moves."""
    names = {role: {x.name for x in axes} for role, axes in found.roles.items()}
    result = []
    spec = found.spec
    reads = [(i < found.scores.body_reads, x) for i, x in enumerate(found.scores.reads)]
    reads += [(i < found.output.body_reads, x) for i, x in enumerate(found.output.reads) if x.value != spec.weights]
    for inside, read in reads:
        axes = variables(read.address, read.guard)
        roles = tuple(role for role, mine in names.items() if mine & axes)
        elements = math.prod(read.value.static_shape())
        result.append(Operand(read.value.name, dtypes.size_of(read.value.dtype), elements, roles, outside=not inside))
    for store in found.output.stores:
        elements = math.prod(store.value.static_shape())
        roles = ("batch", "rows", "columns")
        result.append(Operand(store.value.name, dtypes.size_of(store.value.dtype), elements, roles, outside=True))
    return tuple(result)


def beside(found: Attention) -> int:
    """Bytes that a score's epilogue reads for it alone."""
    key = found.spec.keys.name
    reads = found.scores.reads[found.scores.body_reads :]
    return sum(dtypes.size_of(x.value.dtype) for x in reads if key in variables(x.address, x.guard))


def edges(found: Attention) -> int:
    """Bytes of queries and results."""
    spec = found.spec
    queries = {x.value for x in found.scores.reads[: found.scores.body_reads]}
    size = max(dtypes.size_of(x.dtype) for x in queries)
    query = points((*spec.batch, *spec.rows, *spec.depth)) * size
    sizes = sum(dtypes.size_of(s.value.dtype) for s in found.output.stores)
    return query + points((*spec.batch, *spec.rows, *spec.columns)) * sizes
