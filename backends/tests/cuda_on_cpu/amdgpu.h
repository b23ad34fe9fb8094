// The device functions of ROCm kernels (emit/rocm/functions.py) on the emulator, and OCML's elementary functions.
#pragma once
#include "emulator.h"

typedef unsigned char emu_u8;
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };

static void tw_barrier() { emu_yield(1); }
static void tw_wave_barrier() { emu_yield(2); }
static void tw_in_order() {}
static int tw_trips(int x) { return x; }
static int tw_first_of_wave(int x) { return x / EMU_WARP * EMU_WARP; }  // of consecutive numbers, such as the threads'
struct emu_address {
  const void* at;
  template <typename T> operator T*() const { return (T*)at; }
};
static emu_address tw_either(bool first, const void* x, const void* y) { return {first ? x : y}; }
static emu_address tw_either(bool first, const void* x, emu_address y) { return {first ? x : y.at}; }

#define EMU_LANES(name, type) \
  static type tw_settled_##name(type x) { return x; } \
  static type tw_of_lane_##name(type x, int lane) { return emu_from_lane(x, lane); } \
  static type tw_across_##name(type x, int distance) { return emu_from_lane(x, emu_number % EMU_WARP ^ distance); }
EMU_LANES(int32, int) EMU_LANES(uint32, unsigned) EMU_LANES(int64, int64_t) EMU_LANES(uint64, uint64_t)
EMU_LANES(float32, float) EMU_LANES(float64, double)

// Words of registers and of shared memory, where they must be aligned.
static void emu_aligned(const void* p, int i, unsigned size) {
  if (((unsigned long long)p + (unsigned long long)i * size) % size) { std::fprintf(stderr, "emulator: word in shared memory is not aligned\n"); std::abort(); }
}
#define EMU_WORD(name, type) \
  static type tw_load_local_##name(const void* p, int i) { type r; std::memcpy(&r, (const char*)p + (long)i * sizeof(type), sizeof(type)); return r; } \
  static void tw_store_local_##name(void* p, int i, type x) { std::memcpy((char*)p + (long)i * sizeof(type), &x, sizeof(type)); } \
  static type tw_load_shared_##name(const void* p, int i) { emu_aligned(p, i, sizeof(type)); return tw_load_local_##name(p, i); } \
  static void tw_store_shared_##name(void* p, int i, type x) { emu_aligned(p, i, sizeof(type)); tw_store_local_##name(p, i, x); }
EMU_WORD(uint8, emu_u8) EMU_WORD(uint16, unsigned short) EMU_WORD(uint32, unsigned) EMU_WORD(uint32x2, uint2) EMU_WORD(uint32x4, uint4)
EMU_WORD(float16, half) EMU_WORD(float32, float) EMU_WORD(float64, double) EMU_WORD(uint64, uint64_t)
EMU_WORD(int8, signed char) EMU_WORD(int16, short) EMU_WORD(int32, int) EMU_WORD(int64, int64_t)
EMU_WORD(int32x2, int2) EMU_WORD(int32x4, int4) EMU_WORD(float32x2, float2) EMU_WORD(float32x4, float4)

#define EMU_OCML(name, function) \
  static float __ocml_##name##_f32(float x) { return std::function(x); } \
  static double __ocml_##name##_f64(double x) { return std::function(x); }
#define EMU_OCML2(name, function) \
  static float __ocml_##name##_f32(float x, float y) { return std::function(x, y); } \
  static double __ocml_##name##_f64(double x, double y) { return std::function(x, y); }
EMU_OCML(exp, exp) EMU_OCML(log, log) EMU_OCML(sqrt, sqrt) EMU_OCML(sin, sin) EMU_OCML(cos, cos) EMU_OCML(tan, tan)
EMU_OCML(asin, asin) EMU_OCML(acos, acos) EMU_OCML(atan, atan) EMU_OCML(sinh, sinh) EMU_OCML(cosh, cosh) EMU_OCML(tanh, tanh)
EMU_OCML(asinh, asinh) EMU_OCML(acosh, acosh) EMU_OCML(atanh, atanh) EMU_OCML(erf, erf) EMU_OCML(floor, floor)
EMU_OCML(ceil, ceil) EMU_OCML(trunc, trunc) EMU_OCML(rint, rint) EMU_OCML(fabs, fabs)
EMU_OCML2(pow, pow) EMU_OCML2(fmod, fmod)

// D (16x16) += A (16x16) B (16x16). Lane maps: AMD's matrix instruction calculator, commit 2ef9189, not those that the kernels are
// written from; test_rocm_units.py compares both. `own` elements of A and B per lane, one row of A, one column of B.
//   v_mfma_f32_16x16x16_f16, wave 64: A[i][k], B[k][j] in lane i + 16 (k / 4); D[i][j] in lane j + 16 (i / 4), element i % 4.
//   v_wmma_f32_16x16x16_f16, gfx11, wave 32: A[i][all k] in lanes i and i + 16; D[i][j] in lane j + 16 (i % 2), element i / 2.
//   v_wmma_f32_16x16x16_f16, gfx12, wave 32: A[i][k] in lane i + 16 (k / 4 % 2), element 4 (k / 8) + k % 4; D[i][j] in lane
//     j + 16 (i / 8), element i % 8.
enum emu_unit { emu_mfma, emu_wmma, emu_wmma12 };
static void emu_product(float* d, const void* a, const void* b, emu_unit unit, bool bf16) {
  int own = unit == emu_mfma ? 4 : unit == emu_wmma ? 16 : 8, sums = unit == emu_mfma ? 4 : 8;
  if (EMU_WARP != (unit == emu_mfma ? 64 : 32)) { std::fprintf(stderr, "emulator: no such matrix unit\n"); std::abort(); }
  auto& warp = emu_warps[emu_number / EMU_WARP];
  int lane = emu_number % EMU_WARP;
  std::memcpy(warp.block[lane], a, own * 2);
  std::memcpy(warp.block[lane] + 32, b, own * 2);
  emu_yield(2);
  auto element = [&](int from, int which, int index) { return emu_half(emu_u16(warp.block[from] + 32 * which + 2 * index), 0, bf16); };
  if (unit == emu_wmma && std::memcmp(warp.block[lane], warp.block[lane ^ 16], 64)) { std::fprintf(stderr, "emulator: halves of the wave hold different operands\n"); std::abort(); }
  for (int e = 0; e < sums; ++e) {
    int j = lane % 16, i = unit == emu_wmma ? 2 * e + lane / 16 : sums * (lane / 16) + e;
    for (int k = 0; k < 16; ++k) {
      int half = unit == emu_wmma12 ? k / 4 % 2 : k / own, at = unit == emu_wmma12 ? k / 8 * 4 + k % 4 : k % own;
      d[e] += element(i + 16 * half, 0, at) * element(j + 16 * half, 1, at);
    }
  }
  emu_yield(2);
}
#define EMU_PRODUCT(name) \
  static void tw_##name##_float16(float* d, const void* a, const void* b) { emu_product(d, a, b, emu_##name, false); } \
  static void tw_##name##_bfloat16(float* d, const void* a, const void* b) { emu_product(d, a, b, emu_##name, true); }
EMU_PRODUCT(mfma) EMU_PRODUCT(wmma) EMU_PRODUCT(wmma12)
