"""Device functions that kernels call, as LLVM code that is linked to theirs.

What TVM's code generator has no statement for, or not the right one:
- a barrier between fences. `s_barrier` alone does not wait for a thread's own stores to shared memory to arrive on
  gfx90a and later (LLVM, "User Guide for AMDGPU Backend", memory model).
- words in registers and shared memory that are read and written as another type, or as part of an array that kernels
  share: TVM would turn their addresses into addresses of global memory.
- values of other lanes, through `ds_bpermute`.
- what the first lane of a wave has, of which the compiler knows that all lanes agree;
- one of two addresses;
- points over which nothing is scheduled;
- points that a value passes, so that LLVM does not move its computation behind them;
- numbers of trips that LLVM does not know, so that it does not write loops out;
- products of 16-bit floats by the matrix units. The lane maps are in `recipes.rocm.units`.
"""

from __future__ import annotations

LANE_TYPES = {"int32": "i32", "int64": "i64", "uint32": "i32", "uint64": "i64", "float32": "float", "float64": "double"}
"""LLVM's names of the types that lanes exchange."""
WORDS = {
    "float16": "half",
    "float32": "float",
    "float32x2": "<2 x float>",
    "float32x4": "<4 x float>",
    "float64": "double",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int32x2": "<2 x i32>",
    "int32x4": "<4 x i32>",
    "int64": "i64",
    "uint8": "i8",
    "uint16": "i16",
    "uint32": "i32",
    "uint32x2": "<2 x i32>",
    "uint32x4": "<4 x i32>",
    "uint64": "i64",
}
"""LLVM's names of the types that registers and shared memory are seen as."""
_BYTES = {"float16": 2, "float32": 4, "float64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1}
_BYTES |= {"uint16": 2, "uint32": 4, "uint64": 8, "float32x2": 8, "int32x2": 8, "uint32x2": 8}
SPACES = {"local": 5, "shared": 3}
"""LLVM's address spaces of TIR's scopes."""

_BARRIER = """
define linkonce_odr hidden void @tw_barrier() #0 {
  fence syncscope("workgroup") release
  call void @llvm.amdgcn.s.barrier()
  fence syncscope("workgroup") acquire
  ret void
}
define linkonce_odr hidden void @tw_wave_barrier() #0 {
  fence syncscope("wavefront") release
  call void @llvm.amdgcn.wave.barrier()
  fence syncscope("wavefront") acquire
  ret void
}
define linkonce_odr hidden void @tw_in_order() #0 {
  call void @llvm.amdgcn.sched.barrier(i32 0)
  ret void
}
define linkonce_odr hidden i32 @tw_word_of_lane(i32 %x, i32 %lane) #0 {
  %at = shl i32 %lane, 2
  %y = call i32 @llvm.amdgcn.ds.bpermute(i32 %at, i32 %x)
  ret i32 %y
}
define linkonce_odr hidden i32 @tw_lane() #0 {
  %low = call i32 @llvm.amdgcn.mbcnt.lo(i32 -1, i32 0)
  %all = call i32 @llvm.amdgcn.mbcnt.hi(i32 -1, i32 %low)
  ret i32 %all
}
define linkonce_odr hidden i32 @tw_trips(i32 %x) #0 {
  %y = call i32 asm "", "=s,0"(i32 %x)
  ret i32 %y
}
define linkonce_odr hidden ptr addrspace(1) @tw_either(i1 %first, ptr addrspace(1) %x, ptr addrspace(1) %y) #2 {
  %z = select i1 %first, ptr addrspace(1) %x, ptr addrspace(1) %y
  ret ptr addrspace(1) %z
}
define linkonce_odr hidden i32 @tw_first_of_wave(i32 %x) #0 {
  %y = call i32 @llvm.amdgcn.readfirstlane.i32(i32 %x)
  ret i32 %y
}
declare i32 @llvm.amdgcn.readfirstlane.i32(i32) #1
declare void @llvm.amdgcn.s.barrier() #1
declare void @llvm.amdgcn.wave.barrier() #1
declare void @llvm.amdgcn.sched.barrier(i32 immarg) #1
declare i32 @llvm.amdgcn.ds.bpermute(i32, i32) #1
declare i32 @llvm.amdgcn.mbcnt.lo(i32, i32)
declare i32 @llvm.amdgcn.mbcnt.hi(i32, i32)
"""
_SETTLED = """
define linkonce_odr hidden {type} @tw_settled_{name}({type} %x) #0 {{
  %y = call {type} asm sideeffect "", "=v,0"({type} %x)
  ret {type} %y
}}
"""
_OF_LANE_32 = """
define linkonce_odr hidden {type} @tw_of_lane_{name}({type} %x, i32 %lane) #0 {{
  %w = bitcast {type} %x to i32
  %v = call i32 @tw_word_of_lane(i32 %w, i32 %lane)
  %y = bitcast i32 %v to {type}
  ret {type} %y
}}
"""
_OF_LANE_64 = """
define linkonce_odr hidden {type} @tw_of_lane_{name}({type} %x, i32 %lane) #0 {{
  %w = bitcast {type} %x to <2 x i32>
  %w0 = extractelement <2 x i32> %w, i32 0
  %w1 = extractelement <2 x i32> %w, i32 1
  %v0 = call i32 @tw_word_of_lane(i32 %w0, i32 %lane)
  %v1 = call i32 @tw_word_of_lane(i32 %w1, i32 %lane)
  %u0 = insertelement <2 x i32> poison, i32 %v0, i32 0
  %u1 = insertelement <2 x i32> %u0, i32 %v1, i32 1
  %y = bitcast <2 x i32> %u1 to {type}
  ret {type} %y
}}
"""
_ACROSS = """
define linkonce_odr hidden {type} @tw_across_{name}({type} %x, i32 %distance) #0 {{
  %me = call i32 @tw_lane()
  %lane = xor i32 %me, %distance
  %y = call {type} @tw_of_lane_{name}({type} %x, i32 %lane)
  ret {type} %y
}}
"""
_WORD = """
define linkonce_odr hidden {type} @tw_load_{space}_{name}(ptr addrspace({number}) %p, i32 %i) #2 {{
  %at = getelementptr inbounds {type}, ptr addrspace({number}) %p, i32 %i
  %x = load {type}, ptr addrspace({number}) %at, align {bytes}
  ret {type} %x
}}
define linkonce_odr hidden void @tw_store_{space}_{name}(ptr addrspace({number}) %p, i32 %i, {type} %x) #2 {{
  %at = getelementptr inbounds {type}, ptr addrspace({number}) %p, i32 %i
  store {type} %x, ptr addrspace({number}) %at, align {bytes}
  ret void
}}
"""
_MATRIX = """
define linkonce_odr hidden void @tw_{name}(ptr addrspace(5) %d, ptr addrspace(5) %a, ptr addrspace(5) %b) #0 {{
  %x = load {of}, ptr addrspace(5) %a, align 4
  %y = load {of}, ptr addrspace(5) %b, align 4
  %c = load <{sums} x float>, ptr addrspace(5) %d, align 4
  %r = call <{sums} x float> @{intrinsic}({of} %x, {of} %y, <{sums} x float> %c{rest})
  store <{sums} x float> %r, ptr addrspace(5) %d, align 4
  ret void
}}
declare <{sums} x float> @{intrinsic}({of}, {of}, <{sums} x float>{declared}) #3
"""
_CBSZ = ", i32 0, i32 0, i32 0"  # no broadcast or permutation of blocks
_CBSZ_TYPES = ", i32 immarg, i32 immarg, i32 immarg"
_PRODUCTS = (
    ("mfma_float16", "<4 x half>", 4, "llvm.amdgcn.mfma.f32.16x16x16f16", True),
    ("mfma_bfloat16", "<4 x i16>", 4, "llvm.amdgcn.mfma.f32.16x16x16bf16.1k", True),
    ("wmma_float16", "<16 x half>", 8, "llvm.amdgcn.wmma.f32.16x16x16.f16.v8f32.v16f16", False),
    ("wmma_bfloat16", "<16 x i16>", 8, "llvm.amdgcn.wmma.f32.16x16x16.bf16.v8f32.v16i16", False),
    ("wmma12_float16", "<8 x half>", 8, "llvm.amdgcn.wmma.f32.16x16x16.f16.v8f32.v8f16", False),
    ("wmma12_bfloat16", "<8 x i16>", 8, "llvm.amdgcn.wmma.f32.16x16x16.bf16.v8f32.v8i16", False),
)
_OPTIONS = """
@__oclc_ISA_version = linkonce_odr hidden addrspace(4) constant i32 {isa}
@__oclc_wavefrontsize64 = linkonce_odr hidden addrspace(4) constant i8 {wave64}
@__oclc_finite_only_opt = linkonce_odr hidden addrspace(4) constant i8 0
@__oclc_unsafe_math_opt = linkonce_odr hidden addrspace(4) constant i8 0
@__oclc_daz_opt = linkonce_odr hidden addrspace(4) constant i8 0
@__oclc_correctly_rounded_sqrt32 = linkonce_odr hidden addrspace(4) constant i8 1
"""
"""What the device libraries' functions branch on: subnormal numbers are kept, nothing is approximated."""
_END = """
attributes #0 = { alwaysinline convergent nounwind }
attributes #1 = { convergent nounwind }
attributes #2 = { alwaysinline nounwind }
attributes #3 = { convergent nounwind memory(none) }
"""


def source(arch: str) -> str:
    """All functions as one LLVM module for an architecture; what a program does not call is not linked."""
    digits = arch.removeprefix("gfx")
    version = (int(digits[:-2]), int(digits[-2], 16), int(digits[-1], 16))
    isa = version[0] * 1000 + version[1] * 100 + version[2]
    parts = [_OPTIONS.format(isa=isa, wave64=int(version[0] == 9)), _BARRIER]
    for name, kind in LANE_TYPES.items():
        wide = kind in ("i64", "double")
        forms = (_OF_LANE_64 if wide else _OF_LANE_32, _ACROSS, _SETTLED)
        parts += [x.format(type=kind, name=name) for x in forms]
    for space, number in SPACES.items():
        for name, kind in WORDS.items():
            bytes_ = _BYTES.get(name, 16) if space == "shared" else min(_BYTES.get(name, 4), 4)
            parts.append(_WORD.format(type=kind, name=name, space=space, number=number, bytes=bytes_))
    for name, of, sums, intrinsic, blocks in _PRODUCTS:
        rest, declared = (_CBSZ, _CBSZ_TYPES) if blocks else ("", "")
        given = {"name": name, "of": of, "sums": sums, "intrinsic": intrinsic, "rest": rest, "declared": declared}
        parts.append(_MATRIX.format(**given))
    return "".join([*parts, _END])
