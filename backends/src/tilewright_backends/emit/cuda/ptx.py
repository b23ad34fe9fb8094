"""Device functions around single PTX instructions, as source that `Body.call` takes."""

from __future__ import annotations

LDMATRIX = """
__forceinline__ __device__ void tw_ldmatrix_x4(uint32_t* r, const void* p) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(p);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
"""
LDMATRIX_TRANS = """
__forceinline__ __device__ void tw_ldmatrix_x4_trans(uint32_t* r, const void* p) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(p);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
"""
_MMA = """
__forceinline__ __device__ void tw_mma_{name}(float* d, const uint32_t* a, const uint32_t* b) {{
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.{ptx}.{ptx}.f32 "
    "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""
MMA = {"float16": _MMA.format(name="float16", ptx="f16"), "bfloat16": _MMA.format(name="bfloat16", ptx="bf16")}
"""d (16x8, float32) += a (16x16) · b (16x8), fragments as the instruction wants them."""

_PAIR = """
__forceinline__ __device__ uint32_t tw_pair_{name}(float a, float b) {{
#if __CUDA_ARCH__ >= 800
  uint32_t r; asm("cvt.rn.{ptx}x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a)); return r;
#else
  {other}
#endif
}}
"""
_BF16_PAIR = """uint32_t x[2] = {tw_bitcast<uint32_t>(a), tw_bitcast<uint32_t>(b)};
  for (int i = 0; i < 2; ++i)
    x[i] = (x[i] & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : (x[i] + 0x7FFF + (x[i] >> 16 & 1)) >> 16;
  return x[0] | x[1] << 16;"""
_F16_PAIR = """half x = __float2half_rn(a), y = __float2half_rn(b);
  return (uint32_t)tw_bitcast<uint16_t>(x) | (uint32_t)tw_bitcast<uint16_t>(y) << 16;"""
PAIR = {
    "float16": _PAIR.format(name="float16", ptx="f16", other=_F16_PAIR),
    "bfloat16": _PAIR.format(name="bfloat16", ptx="bf16", other=_BF16_PAIR),
}
"""Two numbers rounded to nearest even, the first in the lower half of a word."""

CP_ASYNC = """
__forceinline__ __device__ void tw_cp_async_16(void* to, const void* from, int bytes) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(a), "l"(from), "r"(bytes) : "memory");
}
"""
"""Copies `bytes` (0 to 16) from global to shared memory and zeroes the rest of 16 bytes, asynchronously."""

CP_ASYNC_IF = """
__forceinline__ __device__ void tw_cp_async_16_if(void* to, const void* from, int bytes, int mine) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(to);
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %3, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %2; }"
    :: "r"(a), "l"(from), "r"(bytes), "r"(mine) : "memory");
}
"""
"""The same without a branch, and only where `mine` is not zero."""

CP_ASYNC_COMMIT = """
__forceinline__ __device__ void tw_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
"""


def cp_async_wait(groups: int) -> tuple[str, str]:
    """Name and source of a wait until at most `groups` groups of this thread's copies are under way."""
    name = f"tw_cp_async_wait_{groups}"
    source = f"""
__forceinline__ __device__ void {name}() {{ asm volatile("cp.async.wait_group {groups};" ::: "memory"); }}
"""
    return name, source


FENCE_ASYNC = """
__forceinline__ __device__ void tw_fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
"""
"""Makes this thread's writes to shared memory visible to the tensor cores' own reads of it."""

AFRESH = """
__forceinline__ __device__ int tw_afresh(int x) { asm volatile("" : "+r"(x)); return x; }
"""
"""A number of which the compiler does not know that it is the same as elsewhere."""

GROUP_BARRIER = """
__forceinline__ __device__ void tw_group_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" :: "r"(number + 1), "r"(threads) : "memory");
}
"""
"""A barrier of some warps of the block, `threads` in all; groups of warps have different numbers from 0 to 14."""

IN_GLOBAL = """
__forceinline__ __device__ void tw_in_global(const void* p) { __builtin_assume(__isGlobal(p)); }
"""
"""Tells the compiler, which knows it of a kernel's parameters only, that a pointer is to global memory."""

MEMBER_BARRIER = """
__forceinline__ __device__ void tw_member_barrier(int threads) {
  asm volatile("bar.sync 1, %0;" :: "r"(threads) : "memory");
}
"""
"""A barrier of the first `threads` threads of the block, which are whole warps."""

WGMMA_FENCE = """
__forceinline__ __device__ void tw_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
"""
WGMMA_COMMIT = """
__forceinline__ __device__ void tw_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
"""
WGMMA_DESCRIPTOR = """
__forceinline__ __device__ uint64_t tw_wgmma_descriptor(const void* p, int leading, int stride) {
  uint64_t a = (uint64_t)((uint32_t)__cvta_generic_to_shared(p) & 0x3FFFF) >> 4;
  return a | (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
"""
"""Descriptor of an operand in shared memory with the 128-byte swizzle; offsets in bytes."""


def wgmma_wait(groups: int) -> tuple[str, str]:
    """Name and source of a wait until at most `groups` groups of products are under way."""
    name = f"tw_wgmma_wait_{groups}"
    source = f"""
__forceinline__ __device__ void {name}() {{ asm volatile("wgmma.wait_group.sync.aligned {groups};" ::: "memory"); }}
"""
    return name, source


def wgmma_settled(count: int) -> tuple[str, str]:
    """Name and source of a point that `count` sums pass: what is computed from them later stays behind it.

    It stands behind the wait for the products, which cannot do this: its operands would be copied in front of it.
    """
    name = f"tw_wgmma_settled_{count}"
    operands = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    source = f"""
__forceinline__ __device__ void {name}(float* d) {{ asm volatile("" : {operands} :: "memory"); }}
"""
    return name, source


def wgmma(n: int, dtype: str, rows_transposed: bool, columns_transposed: bool) -> tuple[str, str]:
    """Name and source of d (64 × n, float32) += a (64 × 16) · b (16 × n), both from shared memory.

    Args:
        rows_transposed: a lies with its rows along memory instead of the reduction.
        columns_transposed: b lies with its columns along memory instead of the reduction.
    """
    ta, tb = int(rows_transposed), int(columns_transposed)
    ptx = {"float16": "f16", "bfloat16": "bf16"}[dtype]
    count = n // 2
    outputs = ", ".join(f"%{i}" for i in range(count))
    operands = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    name = f"tw_wgmma_n{n}_{dtype}_{ta}{tb}"
    source = f"""
__forceinline__ __device__ void {name}(float* d, uint64_t a, uint64_t b) {{
  asm volatile("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ptx}.{ptx} "
    "{{{outputs}}}, %{count}, %{count + 1}, 1, 1, 1, {ta}, {tb};"
    : {operands} : "l"(a), "l"(b));
}}
"""
    return name, source
