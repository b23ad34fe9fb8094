"""Kernels as TIR device functions, and their CUDA source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import attrs
import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType, Range

from tilewright.errors import InternalError
from tilewright.ir.expr import Const
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Value
from tilewright_backends.emit.cuda.body import Body, TensorMap
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.lower.types import Prim, storage
from tilewright_backends.recipes.gpu.slices import name_of

_COOPERATIVE = "tirx.use_cooperative_launch"
_DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"


@attrs.frozen
class DeviceKernel:
    """A kernel ready for code generation.

    Args:
        name: symbol in the machine code.
        params: values that it takes pointers to.
        grid: number of blocks.
        block: threads per block.
        shared_bytes: dynamic shared memory.
        cooperative: whether it must be launched with all blocks resident.
        function: the TIR device function.
        maps: tensor maps that follow the pointers, each of a value among `params`.
        numbers: how many int64 arguments follow then.
        together: how many blocks of a multiprocessor the assembler leaves registers for; 0 if that is its own choice.
        role: a kernel is launched; a member is a device function that persistent kernels call, with the task's number
            in front; a helper is one that becomes part of them.
        words: how many 64-bit integers it takes in one struct by value, in front of everything else.
        source: CUDA C++ of the kernel, where there is no TIR function.
        slices: how many pointers to slices of a task follow those to the values.
    """

    name: str
    params: tuple[Value, ...]
    grid: int
    block: int
    shared_bytes: int
    cooperative: bool
    function: Prim = attrs.field(eq=False, repr=False)
    maps: tuple[TensorMap, ...] = ()
    numbers: int = 0
    together: int = 0
    role: Literal["kernel", "member", "helper"] = "kernel"
    words: int = 0
    source: str = attrs.field(default="", repr=False)
    slices: int = 0

    @property
    def launch_tags(self) -> list[str]:
        """What the launch arguments mean, in TVM's order."""
        tags = ["blockIdx.x", "threadIdx.x"]
        if self.cooperative:
            tags.append(_COOPERATIVE)
        if self.shared_bytes:
            tags.append(_DYNAMIC_SHARED)
        return tags


@attrs.frozen
class Wave:
    """A kernel in which tasks of several others stand side by side.

    Args:
        kernel: the kernel.
        args: names of the values that it takes pointers to; those that it writes come last.
        symbols: names of those whose values follow.
    """

    kernel: DeviceKernel
    args: tuple[str, ...]
    symbols: tuple[str, ...]


def cuda_target(arch: str) -> tvm.target.Target:
    """TVM's target for one architecture."""
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 232448,
            "thread_warp_size": 32,
        }
    )


class KernelShell:
    """The parameters and the body of a kernel under construction.

    Args:
        name: symbol in the machine code.
        params: values that it takes pointers to, outputs included.
        threads: threads per block.
        tasks: number of blocks; each runs one task. Of a member, the number of its tasks.
        aliased: whether two of the pointers may overlap (an output that replaces an input).
        numbers: names of int64 arguments that follow the pointers.
        symbols: whose values follow these, as int64.
        member: whether it is a member of a persistent kernel.
        slices: the values of which a task reads slices, in any memory, through pointers that follow those to values.

    Attributes:
        body: the statements.
        pointers: the variables that stand for the pointers, in the order of `params`.
        numbers: the variables that stand for the numbers, by name, the symbols' last.
    """

    def __init__(
        self,
        name: str,
        params: Sequence[Value],
        threads: int,
        tasks: int,
        aliased: bool = False,
        numbers: Sequence[str] = (),
        symbols: Sequence[Symbol] = (),
        member: bool = False,
        slices: Sequence[Value] = (),
    ) -> None:
        self.name = name
        self.params = tuple(params)
        self.aliased = aliased
        self.member = member
        self.body = self.new_body(threads, tasks)
        self.pointers: list[Prim] = []
        self.numbers = {x: tirx.Var(x, "int64") for x in (*numbers, *(s.name for s in symbols))}
        for symbol in symbols:
            self.body.enter(symbol, self.numbers[symbol.name])
        for number, value in enumerate(self.params):
            pointer = tirx.Var(f"p{number}", PointerType(PrimType(storage(value.dtype)), "global"))
            elements = value.num_elements()
            size = int(elements.value) if isinstance(elements, Const) else 1
            self.pointers.append(pointer)
            self.body.take(value.name, pointer, storage(value.dtype), max(size, 1))
        self.body.sliced = bool(slices)
        self.slices: list[Prim] = []
        for number, value in enumerate(slices):
            pointer = tirx.Var(f"q{number}", PointerType(PrimType(storage(value.dtype)), "global"))
            self.slices.append(pointer)
            self.body.params[name_of(number)] = self.body.view(pointer, storage(value.dtype), 1)

    def new_body(self, threads: int, tasks: int) -> GpuBody:
        """The body of a kernel for this kind of GPU."""
        return Body(threads, tasks, self.member)

    def target(self, arch: str) -> tvm.target.Target:
        """TVM's target."""
        return cuda_target(arch)

    def finish(self, arch: str, cooperative: bool = False) -> DeviceKernel:
        """The device function."""
        body, maps = self.body.finish(), self.body.maps if isinstance(self.body, Body) else {}
        body = _bound(self.body.thread_var, "threadIdx.x", self.body.threads, body)
        if not self.member:
            body = _bound(self.body.task_var, "blockIdx.x", self.body.tasks, body)
        shape = (self.body.tasks, self.body.threads, self.body.launched_bytes)
        kernel = DeviceKernel(self.name, self.params, *shape, cooperative, None, tuple(maps), len(self.numbers))
        kernel = attrs.evolve(kernel, together=self.body.together, role="member" if self.member else "kernel")
        kernel = attrs.evolve(kernel, slices=len(self.slices))
        first = [self.body.task_var] if self.member else []
        params = [*first, *self.pointers, *self.slices, *maps.values(), *self.numbers.values()]
        function = device_function(self.name, params, body, self.target(arch), launched=not self.member)
        function = function.with_attr("tirx.kernel_launch_params", kernel.launch_tags)
        return attrs.evolve(kernel, function=function.with_attr("tirx.noalias", not self.aliased))


def _bound(variable: Prim, tag: str, extent: int, body: Prim) -> Prim:
    axis = tirx.IterVar(Range(0, extent), variable, 1, tag)
    return tirx.AttrStmt(axis, "thread_extent", i32(extent), body)


def device_function(name: str, params: Sequence[Prim], body: Prim, target: tvm.target.Target, launched: bool) -> Prim:
    """A TIR function in the form that code generators take: one that is launched, or one that others call."""
    attributes = {
        "global_symbol": name,
        "target": target,
        "calling_conv": 2 if launched else 0,
        "tirx.is_global_func": launched,
        "s_tir": True,
    }
    function = tirx.PrimFunc(list(params), body)
    for key, value in attributes.items():
        function = function.with_attr(key, value)
    return function


def _take_source(code: str) -> bytes:
    # With a CUDA driver TVM compiles while it generates code. The source is what is wanted; `compile` does the rest.
    return b"source only"


def cuda_source(kernels: Sequence[DeviceKernel], arch: str, preamble: str = "") -> str:
    """CUDA C++ of the kernels. Each appears once, those that are source already behind the others and the preamble.

    No TVM pass runs over them: the bodies are in the form that the code generator takes, and passes that analyse
    expressions take exponential time, or all of the stack, over chains of selects.
    """
    target = cuda_target(arch)
    if len({k.name for k in kernels}) != len(kernels):
        raise InternalError("two kernels have one symbol.")
    module = tvm.IRModule({k.name: k.function for k in kernels if not k.source})
    tvm_ffi.register_global_func("tvm_callback_cuda_compile", _take_source, override=True)
    with target:
        built = tvm.get_global_func("target.build.cuda")(module, target)
    source = with_preamble(str(built.inspect_source()))
    called = {k.name: _CALLED[k.role] for k in kernels if k.role != "kernel"}
    source = _DEVICE.sub(lambda x: f"{x[1]}{called[x[3]]} {x[2]}{x[3]}(", source)
    for kernel in kernels:
        # Warpgroups hand over registers, which the assembler allows where it knows all of them.
        if together := kernel.together or bool(kernel.maps):
            bounds = f"({kernel.block}, {int(together)})"
            source = source.replace(f"({kernel.block}) {kernel.name}(", f"{bounds} {kernel.name}(")
    return "\n".join([source, preamble, *(x.source for x in kernels if x.source)])


_DEVICE = re.compile(r'(extern "C" __device__ )(void )(?:__launch_bounds__\(\d+\) )?(\w+)\(')
_CALLED = {"member": "__noinline__", "helper": "__forceinline__"}
"""How functions are called. The assembler allots registers to each member on its own."""


_PREAMBLE_END = "#define ushort unsigned short\n#endif\n"
_PREAMBLE = """\
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif
#include <cuda_fp16.h>
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short
#ifndef CUDART_INF_F
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0x7fffffffffffffffll)
#endif
struct alignas(64) CUtensorMap {
  unsigned long long opaque[16];
};
template <typename T, typename S> __forceinline__ __device__ T tw_bitcast(S from) {
  static_assert(sizeof(T) == sizeof(S), "bitcast between types of one size");
  T to;
  memcpy(&to, &from, sizeof(T));
  return to;
}
"""


def with_preamble(source: str) -> str:
    """The source with TVM's preamble replaced by one that needs no headers but `cuda_fp16.h`, under NVRTC too."""
    end = source.find(_PREAMBLE_END)
    if end < 0:
        raise InternalError("the CUDA source does not begin as the pinned TVM writes it.")
    body = source[end + len(_PREAMBLE_END) :]
    halves = re.search(r"\bhalf\b", body) is not None
    preamble = _PREAMBLE if halves else _PREAMBLE.replace("#include <cuda_fp16.h>\n", "")
    return preamble + _bitcasts(body)


_REINTERPRET = re.compile(r"\(\*\((\w+) \*\)\(&\(")


def _bitcasts(source: str) -> str:
    """TVM reinterprets through an address, `(*(T *)(&(x)))`, which only variables have: calls take its place."""
    parts: list[str] = []
    at = 0
    while found := _REINTERPRET.search(source, at):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        inner = _bitcasts(source[found.end() : end - 1])
        parts += [source[at : found.start()], f"tw_bitcast<{found.group(1)}>(", inner, ")"]
        at = end + 2
    return "".join([*parts, source[at:]])
