"""Products of a few rows with a large matrix, from memory straight to the tensor cores.

A sum may be taken in any order, so the instructions' reduction points are dealt out such that a lane's share of two
instructions is one 16-byte piece of memory: lane `4 g + t` holds the points `8 t … 8 t + 7` of a group for row `g`. In
the terms of `mma.m16n8k16` the wide operand is the first, with 16 rows, the thin one has 8 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial

from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.neighbours import store_neighbours
from tilewright_backends.emit.gpu.points import both, count, decompose, in_vectors, point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.thin import GROUP, PAD, ROWS, WIDE, ThinDetail, detail_of, padded_groups

_WORDS = 4
"""32-bit words of a piece."""
_PIECE = 8
"""Elements of a piece."""


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.thin does not take kernel {kernel.name}.")
    buffers = {slot: body.params[value.name] for slot, value in kernel.packed}
    wide = detail.operand(detail.wide)
    _Task(body, detail, kernel.choice.as_dict(), buffers.get(wide.slot) if wide.constant else None).statements()


class _Task:
    """One task: all thin points times a block of wide ones."""

    def __init__(self, body: Body, detail: ThinDetail, params: Mapping[str, int], packed: Prim | None) -> None:
        self.body, self.detail, self.packed = body, detail, packed
        roles = detail.tensor.roles
        self.few, self.many = detail.operand(detail.thin), detail.operand(detail.wide)
        self.thin, self.wide = count(self.few.outer), count(self.many.outer)
        self.block, self.warps, self.ahead = params[f"{detail.wide}.block"], params["warps"], params["ahead"]
        self.rows, self.columns = -(-self.thin // ROWS), self.block // WIDE
        self.groups = padded_groups(detail, params)
        blocks = -(-self.wide // self.block)
        self.tile = body.hold(body.task % blocks, "tile")
        self.batch = decompose(body.hold(body.task // blocks, "b"), roles.batch, body) if roles.batch else {}
        lane = body.hold(body.thread % 32, "lane")
        self.warp = body.hold(body.thread // 32, "warp")
        self.g, self.t = body.hold(lane // 4, "g"), body.hold(lane % 4, "t")
        self.sums = body.registers("float32", self.columns * self.rows * 4, "sum")
        with body.repeat(self.columns * self.rows * 4, "clear") as i:
            body.store(self.sums, i, types.literal(0, "float32"))
        self.matrix = body.registers("uint32", self.ahead * self.columns * 2 * _WORDS, "matrix")
        self.vectors = body.registers("uint32", self.ahead * self.rows * _WORDS, "rows")
        self.fragment = body.registers("uint32", 4, "a")

    def statements(self) -> None:
        """All of them."""
        body = self.body
        with body.loop("trip", self.groups // (self.warps * self.ahead)) as trip:
            for ahead in range(self.ahead):
                self._load(ahead, body.hold((trip * self.ahead + ahead) * self.warps + self.warp, "group"))
            for ahead in range(self.ahead):
                self._multiply(ahead)
        self._finish()

    def _load(self, ahead: int, group: Expr) -> None:
        """The pieces of a group."""
        body = self.body
        k = body.hold(group * GROUP + self.t * _PIECE, "k")
        total = count(self.detail.tensor.roles.k)
        reduced = body.index(k < total) if total < self.groups * GROUP else None
        for column in range(self.columns):
            for half in range(2):
                slot = (ahead * self.columns + column) * 2 + half
                if self.packed is not None:
                    line = (self.tile * self.columns + column) * self.groups + group
                    inner = (self.g + half * 8) * GROUP + self.t * _PIECE
                    address = body.index(body.simplify(line * (WIDE * GROUP) + inner))
                    self._piece(self.matrix, slot, self.packed, partial(_same, address), None)
                    continue
                outer = body.hold(self.tile * self.block + (column * WIDE + half * 8) + self.g, "outer")
                inside = body.index(outer < self.wide) if self.wide % self.block else None
                self._operand_piece(self.matrix, slot, self.detail.wide, outer, k, both(inside, reduced))
        for row in range(self.rows):
            outer = body.hold(self.g + row * ROWS, "outer")
            inside = body.index(outer < self.thin) if (row + 1) * ROWS > self.thin else None
            slot = ahead * self.rows + row
            self._operand_piece(self.vectors, slot, self.detail.thin, outer, k, both(inside, reduced))

    def _operand_piece(self, into: Prim, place: int, role: str, outer: Expr, k: Expr, inside: Prim | None) -> None:
        body, spec = self.body, self.detail.tensor.spec
        operand = self.detail.operand(role)
        access = spec.reads[operand.slot]

        def point() -> Point:
            at = {**self.batch, **decompose(outer, operand.outer, body)}
            return point_at(body, spec, at | decompose(k, self.detail.tensor.roles.k, body))

        if access.guard is not None:
            inside = both(inside, point().index(access.guard))
        self._piece(into, place, body.params[access.value.name], lambda: point().index(access.address), inside)

    def _piece(self, into: Prim, place: int, source: Prim, address: Callable[[], Prim], inside: Prim | None) -> None:
        """16 bytes from a multiple of 8 elements, or zeros."""
        body = self.body
        near = body.view(into, "uint32x4", int(into.shape[0]) // _WORDS)
        far = body.view(source, "uint32x4", 1)
        with body.branches(inside) as otherwise:
            body.store(near, i32(place), far[in_vectors(address(), _PIECE)])
            if inside is not None:
                otherwise()
                for word in range(_WORDS):
                    body.store(into, i32(place * _WORDS + word), types.literal(0, "uint32"))

    def _multiply(self, ahead: int) -> None:
        body, dtype = self.body, self.detail.tensor.rows.dtype
        for column in range(self.columns):
            first = (ahead * self.columns + column) * 2 * _WORDS
            for step in range(2):
                # Rows g and g + 8 at the first two points of a lane, then both at the other two.
                for word, at in enumerate((0, _WORDS, 1, _WORDS + 1)):
                    body.store(self.fragment, i32(word), self.matrix[i32(first + 2 * step + at)])
                for row in range(self.rows):
                    target = self.sums[i32((column * self.rows + row) * 4)]
                    b = self.vectors[i32((ahead * self.rows + row) * _WORDS + 2 * step)]
                    pointers = [tir_op.address_of(x) for x in (target, self.fragment[i32(0)], b)]
                    body.call(f"tw_mma_{dtype}", *pointers, source=ptx.MMA[dtype])

    def _finish(self) -> None:
        """Adds up the warps' sums, and runs the epilogue."""
        body, detail = self.body, self.detail
        spec, roles = detail.tensor.spec, detail.tensor.roles
        line = self.block + PAD
        table = body.shared("float32", self.warps * self.rows * ROWS * line, "partial")
        for column in range(self.columns):
            for row in range(self.rows):
                for i in range(4):
                    at_line = self.warp * (self.rows * ROWS) + row * ROWS + self.t * 2 + i % 2
                    place = body.index(body.simplify(at_line * line + column * WIDE + i // 2 * 8 + self.g))
                    body.store(table, place, self.sums[i32((column * self.rows + row) * 4 + i)])
        body.sync()
        total = self.thin * self.block
        along = detail.wide == "n"
        inner = roles.n[-1]
        with body.loop("part", -(-total // body.threads)) as part:
            number = body.hold(part * body.threads + body.thread, "number")
            thin, wide = (
                (number // self.block, number % self.block) if along else (number % self.thin, number // self.thin)
            )
            thin, wide = body.hold(thin, "thin"), body.hold(wide, "wide")
            outer = body.hold(self.tile * self.block + wide, "outer")
            inside = body.index(number < total) if total % body.threads else None
            inside = both(inside, body.index(outer < self.wide) if self.wide % self.block else None)
            with nullcontext() if inside is None else body.when(inside):
                value = body.registers("float32", 1, "value")
                body.store(value, i32(0), types.literal(0, "float32"))
                base = body.hold(thin * line + wide, "base")
                with body.loop("warp", self.warps, "unrolled") as warp:
                    place = body.index(body.simplify(base + warp * (self.rows * ROWS * line)))
                    body.store(value, i32(0), value[i32(0)] + table[place])
                at = {**self.batch, **decompose(thin, self.few.outer, body), **decompose(outer, self.many.outer, body)}
                store_neighbours(body, spec, at, inner, 1, lambda lane, point: [value[i32(0)]], spec.body_reads)


def _same(address: Prim) -> Prim:
    return address
