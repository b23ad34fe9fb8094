"""The kernel of a persistent launch: every block takes the records of its unit and calls members.

Members are device functions of the same translation unit. A member's threads are the first ones of the block; all
members have the block's dynamic shared memory, one after the other. The kernel takes one struct by value: the addresses
of the buffers that the launch uses, then the values of the program's symbols.

What a block waits for changes in the second-level cache, and each look at it empties the first-level one. So a record
is fetched while the one before it is at work, and the arguments of the call behind a wait while the block waits.

Where blocks make calls, each keeps a stack in its shared memory. All blocks are in the same call with the same
counters, so what has no room there stands in global memory once; block 0 writes it. Addresses of values in frames count
from the frame of the call that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import attrs
import numpy as np
from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.device import DeviceModel
from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.events import LINE, TRACE_BYTES, set_bytes, trace_bytes, trace_offset
from tilewright.ir.expr import Expr
from tilewright.ir.program import UNIT, Kernel, Launch, Program
from tilewright.ir.stack import STACK, WORD, words_of
from tilewright_backends.build.cuda.calls import CallText
from tilewright_backends.build.cuda.led import PLAYED, RANK, UNITS, records_of
from tilewright_backends.build.cuda.records import (
    ENDLESS,
    KIND_BITS,
    OFFSET_BITS,
    TARGET_BITS,
    TOGETHER,
    Array,
    Form,
    Kind,
    Records,
    counter,
)
from tilewright_backends.build.cuda.source import DeviceKernel, cuda_target, device_function
from tilewright_backends.build.cuda.subgrids import LOST, TOLD, SubgridText
from tilewright_backends.build.cuda.subgrids import PREAMBLE as SUBGRIDS
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.lower.code import Code, symbol_dtype
from tilewright_backends.lower.types import Prim

_MOST_WORDS = 32764 // 8
"""64-bit integers that a kernel can take (CUDA 12.1 and later, from compute capability 7.0 on)."""

_WARP = 32
_AHEAD = _WARP
"""Arguments that a block fetches while it waits: each thread one, which those of its warp get from it."""

_WHERE = 3
"""Numbers behind a task's arguments that say where its slices are."""

PREAMBLE = """\
struct alignas(16) tw_record { int x, y, z, w; };
struct tw_pointer {
  uint64_t address;
  template <typename T> __forceinline__ __device__ operator T*() const { return (T*)address; }
};
__forceinline__ __device__ uint64_t tw_gpu_ticket(uint64_t* p) {
  uint64_t v;
  asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], 1;" : "=l"(v) : "l"(p) : "memory");
  return v;
}
__forceinline__ __device__ uint64_t tw_gpu_tickets(const uint64_t* p) {
  uint64_t v;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
__forceinline__ __device__ void tw_gpu_count(uint32_t* p) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(p) : "memory");
}
__forceinline__ __device__ int tw_gpu_counted(const uint32_t* p) {
  int v;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__forceinline__ __device__ uint64_t tw_gpu_argument(uint64_t mine, const uint64_t* row, int number) {
  return __shfl_sync(0xffffffffu, mine, number);  // of the lane that has read row[number]
}
__forceinline__ __device__ void tw_gpu_pause(int tries) {
  if (tries > 16) __nanosleep(40);
}
__forceinline__ __device__ uint64_t tw_gpu_time() {
  uint64_t v;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(v) :: "memory");
  return v;
}
__forceinline__ __device__ int tw_gpu_place() {
  int v;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(v));
  return v;
}
__forceinline__ __device__ int tw_limit(uint64_t address) {
  const int64_t limit = *(const volatile int64_t*)address;
  __syncthreads();
  return limit < 0 ? 0 : limit > 0x7fffffff ? 0x7fffffff : (int)limit;
}
template <typename T>
__forceinline__ __device__ void tw_copy_words(uint64_t to, uint64_t from, int bytes, int thread, int threads) {
  for (int i = thread; i < bytes / (int)sizeof(T); i += threads) ((T*)to)[i] = ((const volatile T*)from)[i];
}
__forceinline__ __device__ void tw_copy(uint64_t to, uint64_t from, int bytes, int thread, int threads) {
  if ((to | from | bytes) % 8 == 0) tw_copy_words<uint64_t>(to, from, bytes, thread, threads);
  else if ((to | from | bytes) % 4 == 0) tw_copy_words<uint32_t>(to, from, bytes, thread, threads);
  else tw_copy_words<uint8_t>(to, from, bytes, thread, threads);
}
__forceinline__ __device__ void tw_set(uint64_t to, int number, int bytes) {
  if (bytes == 8) *(int64_t*)to = number;
  else if (bytes == 4) *(int32_t*)to = number;
  else if (bytes == 2) *(int16_t*)to = (int16_t)number;
  else *(int8_t*)to = (int8_t)number;
}
__forceinline__ __device__ void tw_gpu_fetch(uint64_t to, uint64_t from) {
#if __CUDA_ARCH__ >= 800
  const uint32_t there = (uint32_t)__cvta_generic_to_shared((void*)to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(there), "l"(from) : "memory");
#else
  *(uint4*)to = *(const uint4*)from;
#endif
}
__forceinline__ __device__ void tw_gpu_fetched() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
__forceinline__ __device__ bool tw_holds(uint64_t address) {
  bool holds = *(const volatile signed char*)address != 0;
  __syncthreads();
  return holds;
}
"""
PREAMBLE += SUBGRIDS
"""Source in front of persistent kernels: what they read, and how units meet."""


@attrs.frozen
class Persistent:
    """A persistent kernel with what its launch needs.

    Args:
        kernel: the kernel.
        helpers: device functions that it calls besides its members.
        buffers: whose addresses the struct begins with; the symbols' values follow.
        names: of its members' kernels, by the numbers that a traced launch records.
    """

    kernel: DeviceKernel
    helpers: tuple[DeviceKernel, ...]
    buffers: tuple[str, ...]
    names: tuple[str, ...]


def persistent(
    launch: Launch, program: Program, members: Mapping[str, DeviceKernel], number: int, device: DeviceModel
) -> Persistent:
    """The kernel of a launch.

    Args:
        members: the device function of each kernel that it calls.
        number: of the launch, for its symbol.
        device: whose multiprocessors must hold all units at once, where these wait for each other.
    """
    records = records_of(launch, program)
    name = f"tw_persistent_{number}"
    helpers = tuple(
        _form(f"{name}_form{i}", form, records, launch, program, device.arch) for i, form in enumerate(records.forms)
    )
    buffers = (launch.event_buffer, *records.buffers)
    words = len(buffers) + len(program.symbols)
    if words > _MOST_WORDS:
        raise InternalError(f"launch {launch.name} takes {words} addresses and numbers; {_MOST_WORDS} are the most.")
    if launch.led and TOLD + 2 * records.depth > LOST:
        raise InternalError(f"launch {launch.name} has {records.depth} nested loops, too many to tell of.")
    envelope = launch.envelope
    if records.waiting and not envelope.cooperative:
        raise InternalError(f"launch {launch.name}: units wait for each other, and the launch is not cooperative.")
    together = -(-envelope.units // device.units) if envelope.cooperative else 1
    source = _Source(name, launch, program, records, members, words, together).text()
    kernel = DeviceKernel(
        name,
        (),
        envelope.units,
        envelope.threads,
        envelope.block_bytes,
        envelope.cooperative,
        None,
        words=words,
        source=source,
    )
    return Persistent(kernel, helpers, buffers, records.kernels)


def _form(name: str, form: Form, records: Records, launch: Launch, program: Program, arch: str) -> DeviceKernel:
    """The device function that computes the numbers of records of a form."""
    code = Code()
    out = tirx.Var("out", PointerType(PrimType("int32"), "local"))
    unit = tirx.Var("unit", "int32")
    counters = [tirx.Var(counter(i), "int32") for i in range(records.depth)]
    symbols = [tirx.Var(x.name, symbol_dtype(x)) for x in program.symbols]
    code.env[UNIT], code.bounds[UNIT] = unit, Interval(0, launch.envelope.units - 1)
    grid = [tirx.Var(x, "int32") for x in ("rank", "here")] if launch.subgrids.levels else []
    for name_of, variable, low in zip((PLAYED, RANK, UNITS), (unit, *grid), (0, 0, 1), strict=False):
        code.env[name_of], code.bounds[name_of] = variable, Interval(low, launch.envelope.units - 1 + low)
    for variable in counters:
        code.env[variable.name], code.bounds[variable.name] = variable, Interval(0, ENDLESS)
    for symbol, variable in zip(program.symbols, symbols, strict=True):
        code.enter(symbol, variable)
    cells = tirx.decl_buffer((3,), "int32", "numbers", data=out, layout=None)
    code.emit(tirx.DeclBuffer(cells, data=out))
    for place, expr in enumerate(form.numbers):
        if expr is not None:
            code.emit(tirx.BufferStore(cells, _int32(code, expr), [i32(place)]))
    params = [out, unit, *grid, *counters, *symbols]
    function = device_function(name, params, code.finish(), cuda_target(arch), launched=False)
    return DeviceKernel(name, (), 0, 0, 0, False, function, role="helper")


def _int32(code: Code, expr: Expr) -> Prim:
    return tirx.Cast("int32", code.index(code.simplify(expr), "int64"))


class _Source:
    """The text of one persistent kernel."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        program: Program,
        records: Records,
        members: Mapping[str, DeviceKernel],
        words: int,
        together: int,
    ) -> None:
        self.name, self.launch, self.program, self.records, self.members = name, launch, program, records, members
        self.words, self.together = words, together
        wanted = (len(members[x].params) + _WHERE * bool(members[x].slices) for x in records.kernels)
        # A warp that is not whole has no thread for each of them.
        self.ahead = 0 if launch.envelope.threads % _WARP else min(max(wanted, default=0), _AHEAD)
        first = words - len(program.symbols)
        self.symbols = {
            x.name: f"({'int' if symbol_dtype(x) == 'int32' else 'int64_t'})t.at[{first + i}]"
            for i, x in enumerate(program.symbols)
        }

    @cached_property
    def calls(self) -> CallText | SubgridText | None:
        """What a kernel whose blocks make calls has besides; None where they make none."""
        r, program = self.records, self.program
        if not r.sites:
            return None
        kept, status = self._loops(r.loops), f"t.at[{r.status}]"
        deep = program.storage.buffers[STACK].bytes // WORD
        if not self.launch.subgrids.levels:
            told = [counter(i) for i in range(r.depth)]
            return CallText(self.name, self.launch, program.depth, told, kept, status, words_of(r.loops), deep, r.sites)
        owned = [x.bytes for x in program.storage.buffers.values() if x.owner == "region"]
        about = (self.name, self.launch, program.depth, self._loops(r.depth), kept)
        return SubgridText(*about, max(owned, default=0), status, deep, r.sites)

    def text(self) -> str:
        """Tables, then the kernel."""
        r, name, e = self.records, self.name, self.launch.envelope
        lines = [
            f"struct {name}_words {{ uint64_t at[{self.words}]; }};",
            # What is fetched ahead may lie behind the last record, and behind the last argument.
            _table("uint64_t", f"{name}_code", (f"{x}ull" for x in (*_words(r.code), 0, 0))),
            _table("int", f"{name}_starts", map(str, r.starts)),
            _table("uint64_t", f"{name}_rows", (f"{x}ull" for x in (*r.rows, *[0] * _WARP))),
            f'extern "C" __global__ void __launch_bounds__({e.threads}, {self.together})',
            f"{name}(const __grid_constant__ {name}_words t) {{",
            "  const int unit = (int)blockIdx.x, thread = (int)threadIdx.x;",
            f"  const tw_record* next = (const tw_record*){name}_code + {name}_starts[unit];",
            *self._own(),
            *self._events(),
            *self._trace(),
            *(f"  int {counter(i)} = 0;" for i in range(r.depth)),
            *(f"  int limit{i} = {ENDLESS};" for i in range(r.depth if r.limited else 0)),
            *[f"  if (*(const volatile int*)t.at[{r.status}]) return;  // a call was too deep before"] * bool(r.status),
            *self._stack(),
            "  tw_record ahead = *next++;",
            "  uint64_t fetched = 0;  // of the arguments of the record behind a wait the lane's",
            f"  const int lane = thread % {_WARP};",
            "  bool fetches = false;",
            "  while (true) {",
            "    const tw_record record = ahead;",
            "    const bool known = fetches;",
            "    ahead = *next++, fetches = false;",
            "    int n[3] = {record.y, record.z, record.w};",
            f"    int kind = record.x & {(1 << KIND_BITS) - 1};",
            f"    const uint64_t* row = {name}_rows + (record.x >> {KIND_BITS});",
            *self._forms(),
            "    switch (kind) {",
            "      case 0: return;",
            *self._meetings(),
            *self._control(),
            *(self.calls.cases() if self.calls else ()),
            *self._moves(),
            *(line for number, x in enumerate(r.kernels) for line in self._call(number, self.members[x])),
            "    }",
            "  }",
            "}",
        ]
        return "\n".join(lines)

    def _own(self) -> list[str]:
        if not self.launch.envelope.own_bytes:
            return []
        return [
            "  extern __shared__ __align__(1024) uchar shared_memory_ptr[];",
            f"  const uint64_t own = (uint64_t)shared_memory_ptr + {self.launch.envelope.own_offset};",
        ]

    def _events(self) -> list[str]:
        if not self.launch.events:
            return []
        units, size = self.launch.envelope.units, set_bytes(self.launch)
        total = sum(self.launch.events.values())
        return [
            "  uint32_t* counters = 0;  // the first warp signals and waits",
            f"  if (thread < {_WARP}) {{",
            "    unsigned odd = 0;",
            # Every unit takes one ticket a run, so a run's tickets differ by less than a multiple of the units.
            f"    if (thread == 0) odd = tw_gpu_ticket((uint64_t*)t.at[0]) / {units}u % 2;",
            f"    odd = __shfl_sync({(1 << min(self.launch.envelope.threads, _WARP)) - 1:#x}u, odd, 0);",
            f"    counters = (uint32_t*)(t.at[0] + {2 * LINE} + odd * {size}ull);",
            f"    uint32_t* others = (uint32_t*)(t.at[0] + {2 * LINE} + (1 - odd) * {size}ull);",
            f"    for (int i = unit + thread * {units}; i < {total}; i += {units * _WARP}) others[i] = 0;",
            "  }",
        ]

    def _trace(self) -> list[str]:
        if not self.launch.traced:
            return []
        first, each = trace_offset(self.launch), trace_bytes(self.launch)
        return [
            f"  uint64_t* const trace = (uint64_t*)(t.at[0] + {first} + unit * {each}ull);",
            "  if (thread == 0) trace[0] = 0;",
        ]

    def _forms(self) -> list[str]:
        if not self.records.forms:
            return []
        first = Kind.KERNEL + len(self.records.kernels)
        units = ["played", "unit - here.first", "here.units"] if isinstance(self.calls, SubgridText) else ["unit"]
        given = ["n", *units, *(counter(i) for i in range(self.records.depth)), *self.symbols.values()]
        cases = [
            f"      case {first + i}: {self.name}_form{i}({', '.join(given)}); kind = {form.kind}; break;"
            for i, form in enumerate(self.records.forms)
        ]
        return ["    switch (kind) {", *cases, "    }"]

    def _meetings(self) -> list[str]:
        lines: list[str] = []
        if isinstance(self.calls, SubgridText):
            lines += [f"      case {Kind.BARRIER:d}:", *self._fetch(), *self.calls.barrier(), "        break;"]
        elif self.launch.envelope.cooperative:
            units = self.launch.envelope.units
            lines += [
                f"      case {Kind.BARRIER:d}:",
                *["        if (n[0] && active < held) break;"] * bool(self.records.sites),
                *self._fetch(),
                "        if (thread == 0) {",
                f"          uint64_t* tickets = (uint64_t*)(t.at[0] + {LINE});",
                # Tickets are never taken back: the barrier is passed when all units of this round have theirs.
                "          const uint64_t ticket = tw_gpu_ticket(tickets);",
                f"          const uint64_t all = (ticket / {units}u + 1) * {units}u;",
                # Who has the last one need not look again: that would take as long as the ticket did.
                "          if (ticket + 1 < all)",
                "            for (int tries = 0; tw_gpu_tickets(tickets) < all; ++tries) tw_gpu_pause(tries);",
                "        }",
                "        __syncthreads();",
                "        break;",
            ]
        if self.launch.events:
            lines += [
                f"      case {Kind.SIGNAL:d}:",
                "        if (thread == 0) tw_gpu_count(counters + n[0]);",
                "        break;",
                f"      case {Kind.WAIT:d}:",
                *self._fetch("if (n[2]) "),
                "        if (thread == 0)",
                "          for (int tries = 0; tw_gpu_counted(counters + n[0]) < n[1]; ++tries) tw_gpu_pause(tries);",
                "        if (n[2]) __syncthreads();",
                "        break;",
                f"      case {Kind.WAITS:d}: {{",
                f"        const bool last = record.x >> {KIND_BITS};",
                *self._fetch("if (last) "),
                f"        if (thread < {TOGETHER}) {{",
                "          const unsigned wait = thread == 0 ? n[0] : thread == 1 ? n[1] : n[2];",
                f"          const uint32_t* counter = counters + (wait & {(1 << TARGET_BITS) - 1});",
                f"          const int target = (int)(wait >> {TARGET_BITS});",
                "          if (target)",
                "            for (int tries = 0; tw_gpu_counted(counter) < target; ++tries) tw_gpu_pause(tries);",
                "        }",
                "        if (last) __syncthreads();",
                "        break;",
                "      }",
            ]
        return lines

    def _fetch(self, condition: str = "") -> list[str]:
        """Fetches the arguments of the next record, perhaps under a condition."""
        if not self.ahead:
            return []
        row = f"{self.name}_rows[(ahead.x >> {KIND_BITS}) + lane]"
        return [f"        {condition}{{ fetched = {row}, fetches = true; }}"]

    def _control(self) -> list[str]:
        condition = f"(row == {self.name}_rows || tw_holds({self._address('row[0]')}))"
        loops = range(self.records.depth)
        enter = "".join(f" if (n[0] == {i}) {counter(i)} = 0;" for i in loops)

        def at(name: Callable[[int], str]) -> str:
            """The variable of the loop at the depth that the third number says."""
            return "(" + "".join(f"n[2] == {i} ? {name(i)} : " for i in loops[:-1]) + name(len(loops) - 1) + ")"

        goes_on = f"{at(counter)} < n[1]" if loops else ""
        if self.records.limited:
            limit = f"tw_limit({self._address('row[0]')})"
            enter = f" {{ const int most = row == {self.name}_rows ? {ENDLESS} : {limit};{enter}"
            enter += "".join(f" if (n[0] == {i}) limit{i} = most;" for i in loops) + " }"
            goes_on += f" && {at(counter)} < {at(lambda i: f'limit{i}')}"
        step = "".join(f" if (n[1] == {i}) ++{counter(i)};" for i in loops)
        skip = "{ next += n[0] - 1, ahead = *next++; }"
        lines = [f"      case {Kind.JUMP:d}: {skip} break;"]
        if self.records.depth:
            lines += [
                f"      case {Kind.ENTER:d}:{enter} break;",
                f"      case {Kind.TEST:d}: if (!({goes_on} && {condition})) {skip} break;",
                f"      case {Kind.NEXT:d}:{step} {skip} break;",
            ]
        return [*lines, f"      case {Kind.BRANCH:d}: if (!(n[1] && {condition})) {skip} break;"]

    def _stack(self) -> list[str]:
        """The frame of the call that runs, and where calls keep what they need."""
        r, e = self.records, self.launch.envelope
        if self.calls is None:
            return []
        frames = [x for x in self.program.storage.buffers.values() if x.owner == "frame" and x.kind == "workspace"]
        size = max((x.bytes for x in frames), default=0)
        memory = [] if e.own_bytes else ["  extern __shared__ __align__(1024) uchar shared_memory_ptr[];"]
        table = f"((const int*)({self.name}_code + {self.name}_starts[unit] * 2))[-1 - i]"
        return [
            *memory,
            f"  const uint64_t frame_bytes = {size}ull;",
            "  uint64_t frame = 0 - frame_bytes;  // of the launch itself there is none",
            "  int active = 0;",
            f"  int* const back = (int*)(shared_memory_ptr + {e.stack_offset});  // records to return to, by call",
            f"  int* const deep = (int*)t.at[{r.stack}];",
            *self.calls.declarations(),
            f"  for (int i = thread; i < {r.sites}; i += {e.threads}) back[i] = {table};",
            "  __syncthreads();",
        ]

    def _loops(self, depth: int) -> list[str]:
        """The variables of the outermost loops."""
        limits = depth if self.records.limited else 0
        return [*map(counter, range(depth)), *(f"limit{i}" for i in range(limits))]

    def _address(self, argument: str) -> str:
        """The address that an argument of a row stands for."""
        there = f"t.at[{argument} >> {OFFSET_BITS}]"
        if self.calls is None:
            return f"{there} + ({argument} & {(1 << OFFSET_BITS) - 1}ull)"
        return f"{there} + ({argument} & {self.calls.marks - 1}ull) + {self.calls.address(argument)}"

    def _moves(self) -> list[str]:
        """Copies and settings, of which the block's threads see the results behind them, and fetches."""
        lines: list[str] = []
        if Kind.COPY in self.records.kinds:
            target, threads = f"{self._address('row[1]')} + n[0] * row[2] + n[1]", self.launch.envelope.threads
            lines += [
                f"      case {Kind.COPY:d}:",
                f"        tw_copy({target}, {self._address('row[0]')} + n[1], n[2], thread, {threads});",
                "        __syncthreads();",
                "        break;",
            ]
        if Kind.SET in self.records.kinds:
            lines += [
                f"      case {Kind.SET:d}:",
                f"        if (thread == 0) tw_set({self._address('row[0]')}, n[0], n[1]);",
                "        __syncthreads();",
                "        break;",
            ]
        if Kind.FETCH in self.records.kinds:
            source, threads = f"{self._address('row[0]')} + n[0]", self.launch.envelope.threads
            lines += [
                f"      case {Kind.FETCH:d}:",
                f"        for (int i = thread * 16; i < n[1]; i += {threads * 16})",
                f"          tw_gpu_fetch(own + n[2] + i, {source} + i);",
                "        break;",
                f"      case {Kind.FETCHED:d}:",
                "        tw_gpu_fetched();",
                "        __syncthreads();",
                "        break;",
            ]
        return lines

    def _call(self, number: int, member: DeviceKernel) -> list[str]:
        """Some tasks of a kernel; what the next record does follows what all threads have done."""
        given = [f"a{i}" for i in range(len(member.params))]
        kernel = self.program.kernels[self.records.kernels[number]]
        given += [f"q{i}" for i in range(member.slices)]
        given += [f"(int64_t){self.symbols[x.name]}" for x in kernel.symbols]
        call = f"{member.name}({', '.join(['n[0] + i * n[2]', *given])});"
        if member.block < self.launch.envelope.threads:
            call = f"if (thread < {member.block}) {call}"
        before, after = self._traced(number)
        before = [*self._slices(kernel, member), *before]
        # Tasks of one call are independent but for the shared memory that they have after each other.
        each = member.shared_bytes or self.launch.traced
        inside, behind = ("__syncthreads();", "") if each else ("", "__syncthreads();")
        return [
            f"      case {Kind.KERNEL + number}: {{",
            *["        const uint64_t mine = known ? fetched : row[lane];"] * bool(self.ahead),
            *(
                f"        const uint64_t r{i} = {self._argument(i)};"
                for i in range(len(member.params) + _WHERE * bool(member.slices))
            ),
            *(f"        const tw_pointer a{i} = {{{self._address(f'r{i}')}}};" for i in range(len(member.params))),
            "        for (int i = 0; i < n[1]; ++i) {",
            *before,
            f"          {call}",
            *[f"          {inside}"] * bool(inside),
            *after,
            "        }",
            *[f"        {behind}"] * bool(behind),
            "        break;",
            "      }",
        ]

    def _argument(self, i: int) -> str:
        return f"tw_gpu_argument(mine, row, {i})" if i < self.ahead else f"row[{i}]"

    def _slices(self, kernel: Kernel, member: DeviceKernel) -> list[str]:
        """Where the slices of a task are: in the unit's own memory, or in the operands."""
        if not member.slices:
            return []
        offset, count, size = (f"r{len(member.params) + i}" for i in range(_WHERE))
        there = bool(self.launch.envelope.own_bytes)
        lines = [f"          const uint64_t near = own + {offset} + i * {size};"] * there
        for number, (operand, part) in enumerate(zip(kernel.sliced, kernel.choice.slices, strict=True)):
            far = f"a{operand}.address + {part.first} + (uint64_t)(n[0] + i * n[2]) * {part.bytes}"
            near = f"{number} < {count} ? near + {kernel.choice.slice_bytes(number)} : {far}"
            lines.append(f"          const tw_pointer q{number} = {{{near if there else far}}};")
        return lines

    def _traced(self, number: int) -> tuple[list[str], list[str]]:
        """What stands in front of a task and behind it, where tasks are recorded."""
        if not self.launch.traced:
            return [], []
        words = TRACE_BYTES // 8
        return ["          const uint64_t begin = tw_gpu_time();"], [
            f"          if (thread == 0 && trace[0] < {self.launch.traced}) {{",
            f"            uint64_t* kept = trace + {LINE // 8} + {words} * trace[0]++;",
            f"            kept[0] = (uint64_t)(n[0] + i * n[2]) << 32 | {number};",
            "            kept[1] = begin, kept[2] = tw_gpu_time(), kept[3] = tw_gpu_place();",
            "          }",
        ]


def _table(element: str, name: str, values: Iterable[str]) -> str:
    return f'extern "C" __device__ __align__(16) const {element} {name}[] = {{{", ".join(values)}}};'


def _words(code: Array) -> list[int]:
    """Records as 64-bit integers, of which compilers read half as many."""
    words: list[int] = code.astype(np.int32).reshape(-1).view(np.uint64).tolist()
    return words

