"""Barriers in shared memory, boxes that the tensor memory accelerator fetches, and registers that warps hand over."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim

_INIT = """
__forceinline__ __device__ void tw_mbarrier_init(void* b, int count) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(b);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(a), "r"(count) : "memory");
}
"""
_FENCE = """
__forceinline__ __device__ void tw_mbarrier_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
"""
_EXPECT = """
__forceinline__ __device__ void tw_mbarrier_expect(void* b, int bytes) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(b);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(a), "r"(bytes) : "memory");
}
"""
_ARRIVE = """
__forceinline__ __device__ void tw_mbarrier_arrive_if(void* b, int mine) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(b);
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %1, 0; @p mbarrier.arrive.shared::cta.b64 _, [%0]; }"
    :: "r"(a), "r"(mine) : "memory");
}
"""
_WAIT = """
__forceinline__ __device__ void tw_mbarrier_wait(void* b, int parity) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(b);
  asm volatile("{ .reg .pred p;\\n"
    "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\\n"
    "@p bra DONE;\\n"
    "bra AGAIN;\\n"
    "DONE: }" :: "r"(a), "r"(parity) : "memory");
}
"""
_FETCH = """
__forceinline__ __device__ void tw_tma_{rank}d(void* to, unsigned long long map, void* b, {params}) {{
  uint32_t s = (uint32_t)__cvta_generic_to_shared(to), a = (uint32_t)__cvta_generic_to_shared(b);
  asm volatile("cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[%0], [%1, {{{places}}}], [%2];" :: "r"(s), "l"(map), "r"(a), {operands} : "memory");
}}
"""
_REGISTERS = """
__forceinline__ __device__ void tw_registers_{name}() {{
  asm volatile("setmaxnreg.{name}.sync.aligned.u32 {count};");
}}
"""


class Barriers:
    """Some barriers, each counting phases.

    Args:
        arrivals: how many threads arrive before a phase ends, besides the bytes that are expected.
    """

    def __init__(self, body: Body, count: int, arrivals: int) -> None:
        self._body, self._count, self._arrivals = body, count, arrivals
        self._cells = body.shared("uint64", count, "barrier", align=8)

    def _at(self, number: Expr) -> Prim:
        return tir_op.address_of(self._cells[self._body.index(self._body.simplify(number))])

    def start(self) -> None:
        """Sets them up; one thread does, and a fence and a barrier of the block follow."""
        with self._body.repeat(self._count, "b") as i:
            cell = tir_op.address_of(self._cells[i])
            self._body.call("tw_mbarrier_init", cell, i32(self._arrivals), source=_INIT)

    def wait(self, number: Expr, parity: Expr) -> None:
        """Until the phase of that parity has ended; before the first one, parity 1 has."""
        self._body.call("tw_mbarrier_wait", self._at(number), self._body.index(parity), source=_WAIT)

    def expect(self, number: Expr, size: int) -> None:
        """Arrives, and makes the phase last until `size` bytes were fetched as well."""
        self._body.call("tw_mbarrier_expect", self._at(number), i32(size), source=_EXPECT)

    def arrive(self, number: Expr, mine: Prim) -> None:
        """Arrives where `mine` holds. There is no branch: it may stand among products that are under way."""
        self._body.call("tw_mbarrier_arrive_if", self._at(number), types.convert(mine, "int32"), source=_ARRIVE)

    def fetch(self, number: Expr, to: Prim, tensor_map: Prim, place: Sequence[Expr]) -> None:
        """Fetches the box at `place` (innermost first) to shared memory; its bytes count for the barrier's phase."""
        rank = len(place)
        source = _FETCH.format(
            rank=rank,
            params=", ".join(f"int c{i}" for i in range(rank)),
            places=", ".join(f"%{3 + i}" for i in range(rank)),
            operands=", ".join(f'"r"(c{i})' for i in range(rank)),
        )
        at = [self._body.index(self._body.simplify(x), "int32") for x in place]
        call = (tir_op.address_of(to), tir_op.address_of(tensor_map), self._at(number), *at)
        self._body.call(f"tw_tma_{rank}d", *call, source=source)


def fence(body: Body) -> None:
    """Makes barriers that were set up visible to the accelerator."""
    body.call("tw_mbarrier_fence", source=_FENCE)


def give_registers(body: Body, count: int) -> None:
    """Leaves this warpgroup `count` registers a thread, a multiple of 8."""
    body.call("tw_registers_dec", source=_REGISTERS.format(name="dec", count=count))


def take_registers(body: Body, count: int) -> None:
    """Waits for registers that others gave, until this warpgroup has `count` a thread."""
    body.call("tw_registers_inc", source=_REGISTERS.format(name="inc", count=count))
