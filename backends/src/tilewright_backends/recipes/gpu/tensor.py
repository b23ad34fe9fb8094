"""What the tensor core recipes share: contractions of 16-bit operands summed in float32."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.bounds import linear_terms, simplify
from tilewright.ir.expr import Apply, Expr, Var, loads, variables
from tilewright.ir.ops import Axis
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.recipes.contraction import Contraction, Operand, plain_slot
from tilewright_backends.recipes.gpu.common import extent, flat_spec
from tilewright_backends.recipes.gpu.roles import roles_of, stride

CHUNK = 8
"""16-bit elements of one 16-byte access."""
ALIGNMENT = 1024
"""Where each operand's tiles begin in shared memory, in bytes."""


@attrs.frozen
class HalfOperand:
    """A 16-bit factor.

    Args:
        value: in its 16-bit dtype, in terms of the reads.
        dtype: float16 or bfloat16.
        outer: its own spatial axes.
        slot: the read when the value is one, otherwise -1.
        along_k: whether neighbours along the reduction are neighbours in memory.
        chunked: whether 8 neighbours from a multiple of 8 are one aligned piece of memory, or all zeros behind a guard.
        constant: whether it is a compile-time constant of its own axes and k.
    """

    value: Expr
    dtype: str
    outer: tuple[Axis, ...]
    slot: int
    along_k: bool
    chunked: bool
    constant: bool


@attrs.frozen
class TensorDetail:
    """A contraction for the tensor cores."""

    spec: FlatSpec
    roles: Contraction
    rows: HalfOperand
    columns: HalfOperand


def detail_of(kernel: KernelSpec) -> TensorDetail | None:
    """The operands of a contraction of 16-bit values summed in float32, or None."""
    spec = flat_spec(kernel)
    roles = roles_of(spec) if spec is not None else None
    if spec is None or roles is None or roles.state != "float32" or not roles.k:
        return None
    operands = [_half(spec, x, roles, kernel) for x in (roles.rows, roles.columns)]
    rows, columns = operands
    if rows is None or columns is None or rows.dtype != columns.dtype:
        return None
    return TensorDetail(spec, roles, rows, columns)


def _half(spec: FlatSpec, operand: Operand, roles: Contraction, kernel: KernelSpec) -> HalfOperand | None:
    return half_operand(spec, operand, operand.outer, roles.k, kernel.constants)


def half_operand(
    spec: FlatSpec, operand: Operand, outer: tuple[Axis, ...], k: tuple[Axis, ...], constants: frozenset[str]
) -> HalfOperand | None:
    """A factor as 16-bit tiles, or None when it is of another dtype.

    Args:
        outer: axes along a tile.
        k: axes along which tiles follow each other.
        constants: names of the values that are known at compile time.
    """
    value = operand.value
    if not isinstance(value, Apply) or value.op != "cast" or value.args[0].dtype not in ("float16", "bfloat16"):
        return None
    inner = value.args[0]
    slot = plain_slot(inner)
    along_k, chunked = False, False
    if slot is not None:
        near_k = stride(spec, slot, k[-1]) == 1
        near_outer = bool(outer) and stride(spec, slot, outer[-1]) == 1
        along_k = near_k and not near_outer
        axis = k[-1] if along_k else outer[-1] if outer else None
        chunked = axis is not None and (near_k or near_outer) and _aligned(spec, slot, axis)
    constant = operand.constant_slot(spec, constants) is not None
    return HalfOperand(inner, inner.dtype, outer, -1 if slot is None else slot, along_k, chunked, constant)


def _aligned(spec: FlatSpec, slot: int, axis: Axis) -> bool:
    access = spec.reads[slot]
    if loads(access.address, access.guard) or extent(axis) % CHUNK:
        return False
    if access.guard is not None and (axis.name in variables(access.guard) or access.fill is None or access.fill.value):
        return False
    for factor, term in linear_terms(simplify(access.address, spec.bounds())):
        if term == Var(axis.name):
            if factor != 1:
                return False
        elif axis.name in variables(term) or factor % CHUNK:
            return False
    return True


def warp_unit(device: DeviceModel, dtype: str) -> str | None:
    """The peak of instructions by which a warp multiplies 16-bit floats; None where a device has none."""
    kind = {"float16": "fp16", "bfloat16": "bf16"}.get(dtype)
    if kind is None:
        return None
    if device.has("mma.sync"):
        return f"{kind}.mma"
    return f"{kind}.tensor" if device.has("mfma") or device.has("wmma") else None


def packs(operand: HalfOperand) -> bool:
    """Whether an operand is a constant that does not lie in whole chunks, so that it is stored in another order."""
    return operand.constant and not operand.chunked


def packed_slots(detail: TensorDetail) -> dict[int, str]:
    """The operands that are stored in another order, with the role that lies innermost there."""
    return {x.slot: role for x, role in ((detail.rows, "m"), (detail.columns, "n")) if packs(x)}


def axes_of(detail: TensorDetail) -> dict[str, tuple[str, ...]]:
    """Names of the axes of each role."""
    c = detail.roles
    pairs = (("m", c.m), ("n", c.n), ("k", c.k), ("batch", c.batch))
    return {role: tuple(x.name for x in axes) for role, axes in pairs}
