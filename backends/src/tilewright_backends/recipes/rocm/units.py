"""The matrix units of AMD GPUs: MFMA of CDNA (waves of 64) and WMMA of RDNA 3 and 4 (waves of 32).

One instruction multiplies 16 rows by 16 columns over 16 points of the reduction and adds float32 sums. Which lane holds
what (`Unit` says it as formulas):

- `v_mfma_f32_16x16x16_f16`, `…_bf16_1k`: lane `l` has row (column) `l % 16` of an operand at `k` from `4 (l // 16)` on,
  four of them, and of the result column `l % 16`, rows from `4 (l // 16)` on, four of them.
- `v_wmma_f32_16x16x16_f16`, `…_bf16` on gfx11: lane `l` has row (column) `l % 16` at all 16 `k`, so both halves of a
  wave hold the same; of the result column `l % 16`, every other row from `l // 16` on.
- the same on gfx12: lane `l` has row (column) `l % 16` at `k` from `8 (l // 16)` on, eight of them, and of the result
  column `l % 16`, rows from `8 (l // 16)` on, eight of them.

Sources: AMD's ISA reference guides ("AMD Instinct MI200" and "MI300", "RDNA3", "RDNA4", chapters on matrix
instructions), and as a second one AMD's calculator (github.com/ROCm/amd_matrix_instruction_calculator, commit 2ef9189),
whose formulas `tests/test_rocm_units.py` states. On one point sources differ: in which order operands have their `k` on
gfx12. By the calculator a lane's elements are `k` from `4 (l // 16)` on, four of them, then from
`8 + 4 (l // 16)` on; Composable Kernel and AMD's article on RDNA 4 load eight in a row, as is said above. No result
depends on it, for the instruction sums over `k` and both operands have them in the same order.
"""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import Expr, const

SIDE = 16
"""Rows, columns and points of the reduction of one instruction."""


@attrs.frozen
class Unit:
    """A matrix unit.

    Args:
        name: of its instruction, as device functions are called after it.
        held: elements of an operand that a lane has.
        shared: whether lanes 16 apart have the same elements, instead of the next ones along the reduction.
        sums: elements of the result that a lane has.
        apart: rows of the unit's result from one of a lane's elements to the next.
    """

    name: str
    held: int
    shared: bool
    sums: int
    apart: int

    def depth(self, lane: Expr, element: int) -> Expr:
        """The point of the reduction of a lane's element of an operand, whose row or column is `lane % SIDE`."""
        return const(element) if self.shared else lane // SIDE * self.held + element

    def row(self, lane: Expr, element: int) -> Expr:
        """The row of a lane's element of the result, whose column is `lane % SIDE`."""
        high = lane // SIDE
        return high + element * self.apart if self.apart > 1 else high * self.sums + element

    def dealt(self, row: Expr) -> Expr:
        """Which of 16 points the unit is given as a row, so that those that a lane has sums of follow each other.

        The lane's are then those from `lane // SIDE * sums` on.
        """
        return row % self.apart * self.sums + row // self.apart if self.apart > 1 else row


def unit_of(arch: str) -> Unit | None:
    """The matrix unit of an architecture; None when it has none that is known."""
    if arch in ("gfx90a", "gfx942"):
        return Unit("mfma", 4, False, 4, 1)
    if arch.startswith("gfx11"):
        return Unit("wmma", 16, True, 8, 2)
    if arch.startswith("gfx12"):
        return Unit("wmma12", 8, False, 8, 1)
    return None


def unit_for(device: DeviceModel) -> Unit | None:
    """That of a device."""
    return unit_of(device.arch) if device.has("mfma") or device.has("wmma") else None
