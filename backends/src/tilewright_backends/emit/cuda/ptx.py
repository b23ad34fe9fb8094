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
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.{ptx}.{ptx}.f32 {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""
MMA = {"float16": _MMA.format(name="float16", ptx="f16"), "bfloat16": _MMA.format(name="bfloat16", ptx="bf16")}
"""d (16x8, float32) += a (16x16) · b (16x8), fragments as the instruction wants them."""

CP_ASYNC = """
__forceinline__ __device__ void tw_cp_async_16(void* to, const void* from, int bytes) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(a), "l"(from), "r"(bytes) : "memory");
}
"""
"""Copies `bytes` (0 to 16) from global to shared memory and zeroes the rest of 16 bytes, asynchronously."""

CP_ASYNC_COMMIT = """
__forceinline__ __device__ void tw_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
"""


def cp_async_wait(groups: int) -> tuple[str, str]:
    """Name and source of a wait until at most `groups` groups of this thread's copies are under way."""
    name = f"tw_cp_async_wait_{groups}"
    source = f'''
__forceinline__ __device__ void {name}() {{ asm volatile("cp.async.wait_group {groups};" ::: "memory"); }}
'''
    return name, source
