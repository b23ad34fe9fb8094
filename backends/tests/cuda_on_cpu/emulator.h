// Runs CUDA C++ kernels on the CPU, thread for thread: every thread of a block is a fiber, a barrier waits for all of them.
// For tests of generated code on machines without a GPU. Knows what the emitters use, nothing else. EMU_WARP lanes a warp.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <vector>

#ifndef EMU_WARP
#define EMU_WARP 32
#endif
#define __global__
#define __device__
#define __noinline__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __isGlobal(p) true
#define __builtin_assume(x)
#define CUDART_INF_F (std::numeric_limits<float>::infinity())
#define CUDART_NAN_F (std::numeric_limits<float>::quiet_NaN())
#define CUDART_INF (std::numeric_limits<double>::infinity())
#define CUDART_NAN (std::numeric_limits<double>::quiet_NaN())
#define uchar unsigned char
#define ushort unsigned short

// What kernels tell a graph goes to whoever runs it.
static void (*emu_set_conditional)(unsigned long long, unsigned) = nullptr;
extern "C" inline void cudaGraphSetConditional(unsigned long long handle, unsigned value) {
  emu_set_conditional == nullptr ? std::abort() : emu_set_conditional(handle, value);
}

struct emu_dim { int x, y, z; };
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
typedef _Float16 half;

struct emu_fiber { ucontext_t context; bool done = false, paused = false; int waits = 0; };
struct emu_exchange { unsigned long long slot[EMU_WARP]; unsigned char block[EMU_WARP][64]; };
static const size_t emu_stack = 256 * 1024;
struct emu_block {
  int number = 0;
  long seen = -1;  // changes when it last looked in vain
  std::vector<emu_fiber> fibers;
  std::vector<emu_exchange> warps;
  unsigned char* memory;  // the stacks, then the shared memory
  size_t stacks, shared_bytes;
  int arrived[16], passed[16];  // at barriers of some warps: arrivals so far, and how often all have arrived

  emu_block(int threads, int bytes) : fibers(threads), warps((threads + EMU_WARP - 1) / EMU_WARP), stacks(threads * emu_stack), shared_bytes(bytes + 1024) {
    memory = (unsigned char*)mmap(nullptr, stacks + shared_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) { std::perror("emulator: memory of a block"); std::abort(); }
  }
  ~emu_block() { munmap(memory, stacks + shared_bytes); }
  emu_block(const emu_block&) = delete;
  unsigned char* shared() { return memory + stacks; }
};
static emu_block* emu_here;
static long emu_changes;  // of what blocks wait for
static emu_fiber* emu_current;
static ucontext_t emu_scheduler;
static emu_dim emu_tid, emu_bid, emu_bdim, emu_gdim;
static int emu_number;
static std::function<void()> emu_kernel;
#define emu_shared (emu_here->shared())
#define emu_warps (emu_here->warps)

#define threadIdx (emu_tid)
#define blockIdx (emu_bid)
#define blockDim (emu_bdim)
#define gridDim (emu_gdim)
#define shared_memory_ptr emu_shared_memory

static void emu_yield(int kind) {  // 1: block barrier, 2: warp barrier
  emu_current->waits = kind;
  swapcontext(&emu_current->context, &emu_scheduler);
}
static inline void __syncthreads() { emu_yield(1); }
static inline void __syncwarp(unsigned = ~0u) { emu_yield(2); }

static void emu_enter() { emu_kernel(); emu_current->done = true; swapcontext(&emu_current->context, &emu_scheduler); }

static void emu_start(emu_block& b, int number) {
  b.number = number;
  std::memset(b.shared(), 0xff, b.shared_bytes);  // NaN
  std::memset(b.arrived, 0, sizeof b.arrived);
  std::memset(b.passed, 0, sizeof b.passed);
  for (size_t t = 0; t < b.fibers.size(); ++t) {
    emu_fiber& f = b.fibers[t];
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = b.memory + t * emu_stack;
    f.context.uc_stack.ss_size = emu_stack;
    f.context.uc_link = nullptr;
    f.done = false;
    f.waits = 0;
    makecontext(&f.context, emu_enter, 0);
  }
}

enum emu_state { emu_running, emu_pausing, emu_finished };

// Each thread of a block that can run does so until it waits. A block pauses when all that did only looked at memory.
static emu_state emu_sweep(emu_block& b) {
  // A thread runs when it waits for nothing, when its warp is at a warp barrier, or when all are at the block barrier.
  auto& fibers = b.fibers;
  int block = fibers.size();
  bool all_done = true, all_block = true;
  for (auto& f : fibers) { all_done &= f.done; all_block &= f.done || f.waits == 1; }
  if (all_done) return emu_finished;
  bool progress = false, pausing = true;
  if (all_block) { for (auto& f : fibers) f.waits = 0; }
  for (int w = 0; w * EMU_WARP < block; ++w) {
    bool ready = true;
    for (int t = w * EMU_WARP; t < block && t < w * EMU_WARP + EMU_WARP; ++t) ready &= fibers[t].done || fibers[t].waits == 2;
    if (ready) for (int t = w * EMU_WARP; t < block && t < w * EMU_WARP + EMU_WARP; ++t) fibers[t].waits = 0;
  }
  emu_here = &b;
  emu_bid = {b.number, 0, 0};
  for (int t = 0; t < block; ++t) {
    if (fibers[t].done || fibers[t].waits) continue;
    progress = true;
    emu_current = &fibers[t];
    emu_current->paused = false;
    emu_number = t;
    emu_tid = {t, 0, 0};
    swapcontext(&emu_scheduler, &fibers[t].context);
    pausing &= fibers[t].paused;
  }
  if (!progress) { std::fprintf(stderr, "emulator: barrier that not all threads reach\n"); std::abort(); }
  return pausing ? emu_pausing : emu_running;
}

// Runs a grid block after block, or all blocks together, which take turns at random.
static void emu_run(int grid, int block, int shared_bytes, bool together, unsigned long long seed, std::function<void()> kernel) {
  emu_kernel = kernel;
  emu_bdim = {block, 1, 1};
  emu_gdim = {grid, 1, 1};
  std::vector<std::unique_ptr<emu_block>> live;
  for (int b = 0; b < (together ? grid : 1); ++b) {
    live.emplace_back(new emu_block(block, shared_bytes));
    emu_start(*live.back(), b);
  }
  if (!together) {
    for (int b = 0; b < grid; ++b) {
      emu_start(*live[0], b);
      while (emu_sweep(*live[0]) != emu_finished) {}
    }
    return;
  }
  std::mt19937_64 random(seed);
  while (!live.empty()) {
    // A block that looked in vain would do so again until another has changed something.
    std::vector<size_t> able;
    for (size_t i = 0; i < live.size(); ++i) if (live[i]->seen != emu_changes) able.push_back(i);
    if (able.empty()) { std::fprintf(stderr, "emulator: units wait for each other for ever\n"); std::abort(); }
    size_t at = able[random() % able.size()];
    emu_state state = emu_running;
    for (int turns = random() % 16; turns >= 0 && state == emu_running; --turns) {
      long before = emu_changes;
      state = emu_sweep(*live[at]);
      if (state == emu_pausing) live[at]->seen = before;
    }
    if (state == emu_finished) live.erase(live.begin() + at);
  }
}

// How blocks meet. A block that looks at memory in vain lets the others run.
static uint64_t tw_gpu_ticket(uint64_t* p) { ++emu_changes; return (*p)++; }
static uint64_t tw_gpu_tickets(const uint64_t* p) { return *(const volatile uint64_t*)p; }
static void tw_gpu_count(uint32_t* p) { ++emu_changes; ++*p; }
static int tw_gpu_counted(const uint32_t* p) { return *(const volatile int*)p; }
static uint64_t tw_gpu_time() { static uint64_t now = 0; return ++now; }
static int tw_gpu_place() { return emu_here->number; }
static void tw_gpu_fetch(uint64_t to, uint64_t from) {
  if (to % 16 || from % 16) { std::fprintf(stderr, "emulator: a fetch is not aligned\n"); std::abort(); }
  std::memcpy((void*)to, (const void*)from, 16);
}
static void tw_gpu_fetched() {}
static uint64_t tw_gpu_argument(uint64_t, const uint64_t* row, int number) { return row[number]; }
static void tw_gpu_pause(int) { emu_current->paused = true; emu_yield(0); }

template <typename T> static T emu_from_lane(T value, int lane) {
  static_assert(sizeof(T) <= 8, "");
  auto& warp = emu_warps[emu_number / EMU_WARP];
  unsigned long long bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  warp.slot[emu_number % EMU_WARP] = bits;
  emu_yield(2);
  bits = warp.slot[lane & (EMU_WARP - 1)];
  emu_yield(2);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}
template <typename T> static T __shfl_xor_sync(unsigned, T value, int mask) { return emu_from_lane(value, (emu_number % EMU_WARP) ^ mask); }
template <typename T> static T __shfl_sync(unsigned, T value, int lane) { return emu_from_lane(value, lane); }

template <int N, typename R, typename... A> struct emu_nth;
template <typename R, typename F, typename... A> struct emu_nth<0, R, F, A...> { typedef F type; };
template <int N, typename R, typename F, typename... A> struct emu_nth<N, R, F, A...> : emu_nth<N - 1, R, A...> {};
template <int N, typename R, typename... A> typename emu_nth<N, R, A...>::type emu_arg(R (*)(A...));

template <typename A, typename B> static auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }
template <typename A, typename B> static auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
static inline half __float2half_rn(float x) { return (half)x; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline float __int_as_float(int x) { float r; std::memcpy(&r, &x, 4); return r; }
static inline int __float_as_int(float x) { int r; std::memcpy(&r, &x, 4); return r; }
static inline unsigned __float_as_uint(float x) { unsigned r; std::memcpy(&r, &x, 4); return r; }
static inline float __uint_as_float(unsigned x) { float r; std::memcpy(&r, &x, 4); return r; }
static unsigned long emu_shared_address(const void* p) { return (unsigned long)((const unsigned char*)p - emu_shared); }

// Collective instructions of a warp. The emulator's user drops the definitions of these names from the generated source.
static unsigned short emu_u16(const void* p) { unsigned short r; std::memcpy(&r, p, 2); return r; }
static void emu_ldmatrix(uint32_t* r, const void* p, bool trans) {
  auto& warp = emu_warps[emu_number / 32];
  int lane = emu_number % 32;
  warp.slot[lane] = (unsigned long long)p;
  if ((unsigned long long)p % 16) { std::fprintf(stderr, "emulator: ldmatrix row is not aligned\n"); std::abort(); }
  emu_yield(2);
  for (int j = 0; j < 4; ++j) {
    if (!trans) {
      std::memcpy(&r[j], (const char*)warp.slot[j * 8 + lane / 4] + lane % 4 * 4, 4);
    } else {
      unsigned lo = emu_u16((const char*)warp.slot[j * 8 + 2 * (lane % 4)] + lane / 4 * 2);
      unsigned hi = emu_u16((const char*)warp.slot[j * 8 + 2 * (lane % 4) + 1] + lane / 4 * 2);
      r[j] = lo | hi << 16;
    }
  }
  emu_yield(2);
}
static void tw_ldmatrix_x4(uint32_t* r, const void* p) { emu_ldmatrix(r, p, false); }
static void tw_ldmatrix_x4_trans(uint32_t* r, const void* p) { emu_ldmatrix(r, p, true); }

static float emu_half(uint32_t word, int which, bool bf16) {
  unsigned short bits = word >> (16 * which);
  if (bf16) return __uint_as_float((unsigned)bits << 16);
  _Float16 h;
  std::memcpy(&h, &bits, 2);
  return h;
}
static void emu_mma(float* d, const uint32_t* a, const uint32_t* b, bool bf16) {
  auto& warp = emu_warps[emu_number / 32];
  int lane = emu_number % 32;
  std::memcpy(warp.block[lane], a, 16);
  std::memcpy(warp.block[lane] + 16, b, 8);
  emu_yield(2);
  auto word = [&](int from, int index) { uint32_t r; std::memcpy(&r, warp.block[from] + index * 4, 4); return r; };
  for (int e = 0; e < 4; ++e) {
    int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    for (int k = 0; k < 16; ++k) {
      float x = emu_half(word(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2), k % 2, bf16);
      float y = emu_half(word(column * 4 + k % 8 / 2, 4 + k / 8), k % 2, bf16);
      d[e] += x * y;
    }
  }
  emu_yield(2);
}
static void tw_mma_float16(float* d, const uint32_t* a, const uint32_t* b) { emu_mma(d, a, b, false); }
static void tw_mma_bfloat16(float* d, const uint32_t* a, const uint32_t* b) { emu_mma(d, a, b, true); }
static void tw_cp_async_16(void* to, const void* from, int bytes) {
  if ((unsigned long long)to % 16 || (bytes && (unsigned long long)from % 16)) { std::fprintf(stderr, "emulator: cp.async is not aligned\n"); std::abort(); }
  std::memset(to, 0, 16);
  std::memcpy(to, from, bytes);
}
static void tw_cp_async_commit() {}
static void tw_cp_async_16_if(void* to, const void* from, int bytes, int mine) { if (mine) tw_cp_async_16(to, from, bytes); }

// Barriers of some warps.
static void tw_group_barrier(int number, int threads) {
  emu_block& b = *emu_here;
  int before = b.passed[number];
  if (++b.arrived[number] == threads) { b.arrived[number] = 0; ++b.passed[number]; }
  for (long tries = 0; b.passed[number] == before; ++tries) {
    if (tries > 10000000) { std::fprintf(stderr, "emulator: barrier that not all of a group reach\n"); std::abort(); }
    emu_yield(0);
  }
}
static void tw_member_barrier(int threads) { tw_group_barrier(15, threads); }

// wgmma: every thread computes its own sums from shared memory, at once. Swizzle of 128 bytes.
static unsigned long __cvta_generic_to_shared(const void* p) { return emu_shared_address(p); }
static void tw_fence_async() {}
static void tw_wgmma_fence() {}
static void tw_wgmma_commit() {}
static float emu_wgmma_element(unsigned long long descriptor, int outer, int k, bool transposed, bool bf16) {
  unsigned start = (descriptor & 0x3FFF) << 4, leading = (descriptor >> 16 & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  unsigned at = transposed ? start + outer / 64 * leading + k / 8 * stride + k % 8 * 128 + outer % 64 * 2
                           : start + outer / 8 * stride + outer % 8 * 128 + k * 2;
  at ^= (at >> 7 & 7) << 4;
  return emu_half(emu_u16(emu_shared + at), 0, bf16);
}
static void emu_wgmma(float* d, unsigned long long a, unsigned long long b, int n, bool bf16, bool ta, bool tb) {
  int warp = emu_number / 32 % 4, lane = emu_number % 32;
  for (int i = 0; i < n / 2; ++i) {
    int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) d[i] += emu_wgmma_element(a, row, k, ta, bf16) * emu_wgmma_element(b, column, k, tb, bf16);
  }
}

// Barriers in shared memory: a phase ends when all have arrived and all bytes that are expected are there. A fetch is done
// at once. The word of a barrier: parity of the phase, arrivals of a phase, those still missing, bytes still missing.
struct emu_barrier { uint16_t parity; uint8_t count, missing; int32_t bytes; };
static emu_barrier* emu_at(void* b) {
  if ((unsigned long long)b % 8) { std::fprintf(stderr, "emulator: barrier is not aligned\n"); std::abort(); }
  return (emu_barrier*)b;
}
static void emu_settle(emu_barrier* b) {
  if (b->missing || b->bytes) return;
  b->parity ^= 1;
  b->missing = b->count;
}
static void tw_mbarrier_init(void* b, int count) { *emu_at(b) = {0, (uint8_t)count, (uint8_t)count, 0}; }
static void tw_mbarrier_fence() {}
static void tw_mbarrier_expect(void* b, int bytes) { emu_at(b)->bytes += bytes; --emu_at(b)->missing; emu_settle(emu_at(b)); }
static void tw_mbarrier_arrive_if(void* b, int mine) {
  emu_yield(2);  // products are done when the whole warp is here
  if (mine) { --emu_at(b)->missing; emu_settle(emu_at(b)); }
}
static void tw_mbarrier_wait(void* b, int parity) {
  for (long tries = 0; emu_at(b)->parity == parity; ++tries) {
    if (tries > 10000000) { std::fprintf(stderr, "emulator: phase that never ends\n"); std::abort(); }
    emu_yield(0);
  }
}
struct emu_map { unsigned long long address, rank, size; struct { long long extent, stride, box; } dims[5]; };
static void emu_fetch(void* to, unsigned long long map, void* b, const int* place) {
  const emu_map* m = (const emu_map*)map;
  unsigned start = emu_shared_address(to);
  if (start % 1024 || m->dims[0].box * m->size != 128) { std::fprintf(stderr, "emulator: box is not swizzled rows of 128 bytes\n"); std::abort(); }
  for (unsigned d = 1; d < m->rank; ++d) if (m->dims[d].stride % 16) { std::fprintf(stderr, "emulator: stride is no multiple of 16\n"); std::abort(); }
  long long total = 1;
  for (unsigned d = 0; d < m->rank; ++d) total *= m->dims[d].box;
  for (long long e = 0; e < total; ++e) {
    long long rest = e, offset = 0;
    bool inside = true;
    for (unsigned d = 0; d < m->rank; ++d) {
      long long at = place[d] + rest % m->dims[d].box;
      rest /= m->dims[d].box;
      inside &= at >= 0 && at < m->dims[d].extent;
      offset += at * m->dims[d].stride;
    }
    unsigned target = start + e * m->size;
    target ^= (target >> 7 & 7) << 4;
    if (inside) std::memcpy(emu_shared + target, (const char*)m->address + offset, m->size);
    else std::memset(emu_shared + target, 0, m->size);
  }
  emu_at(b)->bytes -= total * m->size;
  emu_settle(emu_at(b));
}
static void tw_tma_2d(void* to, unsigned long long map, void* b, int c0, int c1) { int at[] = {c0, c1}; emu_fetch(to, map, b, at); }
static void tw_tma_3d(void* to, unsigned long long map, void* b, int c0, int c1, int c2) { int at[] = {c0, c1, c2}; emu_fetch(to, map, b, at); }
static void tw_tma_4d(void* to, unsigned long long map, void* b, int c0, int c1, int c2, int c3) { int at[] = {c0, c1, c2, c3}; emu_fetch(to, map, b, at); }
static void tw_tma_5d(void* to, unsigned long long map, void* b, int c0, int c1, int c2, int c3, int c4) { int at[] = {c0, c1, c2, c3, c4}; emu_fetch(to, map, b, at); }
