"""The part of a block's result that one warpgroup computes by `wgmma` from swizzled tiles in shared memory."""

from __future__ import annotations

import attrs
from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr, const
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import Piece
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim

WARPGROUP = 128
STEP = 64
"""Reduction points of a tile: rows of 128 bytes, the width of the swizzle."""
_ATOM = 1024
"""Bytes of eight swizzled rows."""


@attrs.frozen
class SharedTiles:
    """The tiles of one operand in shared memory, a stage behind the other.

    Args:
        buffer: all stages.
        dtype: float16 or bfloat16.
        along_k: whether rows are outer points of 64 reduction points, or columns of 64 outer points hold a row per
            reduction point.
        elements: from one stage to the next.
    """

    buffer: Prim
    dtype: str
    along_k: bool
    elements: int


class WarpgroupTile:
    """The sums of a warpgroup: `rows` × `columns` of the result, from row `first` of the block's tile on."""

    def __init__(self, body: Body, group: Expr, rows: int, columns: int, operands: tuple[SharedTiles, SharedTiles]):
        self.body, self.rows, self.columns, self.operands = body, rows, columns, operands
        self.first = body.hold(group * rows, "m_first")
        self.blocks = rows // 64
        self.each = columns // 2
        self.sums = body.registers("float32", self.blocks * self.each, "sum")

    def clear(self) -> None:
        """Starts the sums at zero."""
        with self.body.repeat(self.blocks * self.each, "clear") as i:
            self.body.store(self.sums, i, types.literal(0, "float32"))

    def multiply(self, row_stage: Expr, column_stage: Expr) -> None:
        """Starts the products of a stage of each operand and commits them as one group."""
        body, (rows, columns) = self.body, self.operands
        name, source = ptx.wgmma(self.columns, rows.dtype, not rows.along_k, not columns.along_k)
        stages = (row_stage, column_stage)
        starts = [body.hold(at * x.elements, "start") for at, x in zip(stages, self.operands, strict=True)]
        body.call("tw_wgmma_fence", source=ptx.WGMMA_FENCE)
        for part in range(STEP // 16):
            of_columns = self._descriptor(columns, starts[1], const(0), part)
            for block in range(self.blocks):
                of_rows = self._descriptor(rows, starts[0], self.first + block * 64, part)
                sums = tir_op.address_of(self.sums[i32(block * self.each)])
                body.call(name, sums, of_rows, of_columns, source=source)
        body.call("tw_wgmma_commit", source=ptx.WGMMA_COMMIT)

    def finish(self) -> None:
        """Waits until all products are done, so that the sums may be read.

        The last products must be started right before, outside of any loop: behind a loop in which some stay under way,
        the assembler of CUDA 13.0 reads the sums in front of this wait.
        """
        wait, wait_source = ptx.wgmma_wait(0)
        self.body.call(wait, source=wait_source)
        name, source = ptx.wgmma_settled(self.blocks * self.each)
        self.body.call(name, tir_op.address_of(self.sums[i32(0)]), source=source)

    def _descriptor(self, tiles: SharedTiles, start: Expr, outer: Expr, part: int) -> Prim:
        """Descriptor of 16 reduction points from `outer` on."""
        body = self.body
        if tiles.along_k:
            # Rows of 64 reduction points, eight of them to an atom; 16 points are 32 bytes on.
            place = start + outer * STEP + part * 16
            leading, stride = 16, _ATOM
        else:
            # Columns of 64 outer points: one row per reduction point, eight rows to an atom.
            place = start + outer * STEP + part * 16 * 64
            leading, stride = STEP * 128, _ATOM
        pointer = tir_op.address_of(tiles.buffer[body.index(body.simplify(place))])
        call = body.call(
            "tw_wgmma_descriptor",
            pointer,
            i32(leading),
            i32(stride),
            source=ptx.WGMMA_DESCRIPTOR,
            result="uint64",
        )
        return body.bind(call, "descriptor")

    def piece(self, m_base: Expr, n_base: Expr, afresh: bool = False) -> Piece:
        """Where the sums of this thread stand in the result.

        Args:
            afresh: whether places are computed here, not kept in registers from earlier pieces.
        """
        body = self.body
        find = body.afresh if afresh else body.hold
        warp, lane = find(body.thread % WARPGROUP // 32, "warp"), find(body.thread % 32, "lane")
        row = m_base + self.first + warp * 16 + lane // 4
        return Piece(self.sums, self.blocks, self.columns // 8, row, n_base + lane % 4 * 2, 64)
