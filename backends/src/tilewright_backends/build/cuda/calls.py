"""Source of persistent kernels whose blocks make calls together: a stack of which the first calls are in shared memory.

What a call keeps is written by one thread, and read behind the barrier of all units, or of the block. Where one unit
leads (`led.LedWriter`), it tells the others a place of theirs, and the call and the trips in which it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.events import LINE
from tilewright.ir.program import Launch
from tilewright.ir.stack import WORD, table_bytes
from tilewright_backends.build.cuda.records import FRAMED, Kind


@attrs.frozen
class CallText:
    """Pieces of the source of one kernel.

    Args:
        name: of the kernel.
        depth: calls that may be active.
        counters: variables of loops that a leader tells.
        kept: variables of loops' counters, and of their limits, that calls keep.
        status: where a call that was too deep is reported.
        each: numbers that a call keeps.
        deep: numbers that there is room for in memory, for each call.
        places: of the table in front of the stack.
    """

    name: str
    launch: Launch
    depth: int
    counters: Sequence[str]
    kept: Sequence[str]
    status: str
    each: int
    deep: int
    places: int

    marks = FRAMED
    """The lowest bit of an argument that says something besides its place in a buffer."""

    def declarations(self) -> list[str]:
        """Behind those of the table of places, and of where calls keep what they need."""
        held = max(self.launch.envelope.stack_bytes - table_bytes(self.places), 0) // (WORD * self.each)
        return [
            f"  int* const stack = back + {self.places};",
            *[f"  volatile int* const told = (volatile int*){self.status} + 1;"] * self.launch.led,
            f"  const int held = {held}, each = {self.each}, deep_each = {self.deep};",
        ]

    def address(self, argument: str) -> str:
        """What is added to the address of an argument for the frame that it is in."""
        return f"({argument} & {FRAMED}ull ? frame : 0)"

    def cases(self) -> list[str]:
        """Calls and returns, and what a leader tells."""
        led = self.launch.led
        place = "active < held ? stack + active * each : deep + active * (int64_t)deep_each"
        return [
            f"      case {Kind.ROOM:d}:",
            f"        if (active == {self.depth}) {{",
            f"          if (unit == 0 && thread == 0) *(volatile int*){self.status} = n[0];",
            *[f"          if (thread == 0) told[0] = -1, tw_gpu_ticket((uint64_t*)(t.at[0] + {LINE}));"] * led,
            "          return;",
            "        }",
            "        break;",
            f"      case {Kind.CALL:d}: {{",
            "        if (thread == 0 && (active < held || unit == 0)) {",
            f"          int* kept = {place};",
            "          kept[0] = n[1];",
            *(f"          kept[{i}] = {x};" for i, x in enumerate(self.kept, 1)),
            "        }",
            "        ++active, frame += frame_bytes;",
            "        next += n[0] - 1, ahead = *next++;",
            "        __syncthreads();",
            "        break;",
            "      }",
            f"      case {Kind.RETURN:d}: {{",
            "        --active, frame -= frame_bytes;",
            f"        const volatile int* kept = {place};",
            f"        next = (const tw_record*){self.name}_code + {self.name}_starts[unit] + back[kept[0]];",
            *(f"        {x} = kept[{i}];" for i, x in enumerate(self.kept, 1)),
            "        ahead = *next++;",
            "        __syncthreads();",
            "        break;",
            "      }",
            *(self._told() if led else ()),
        ]

    def _told(self) -> list[str]:
        return [
            f"      case {Kind.TELL:d}:",
            "        if (thread == 0) {",
            "          told[0] = n[0], told[1] = active;",
            *(f"          told[{i}] = {x};" for i, x in enumerate(self.counters, 2)),
            "        }",
            "        break;",
            f"      case {Kind.LISTEN:d}: {{",
            "        const int place = told[0];",
            "        if (place < 0) return;",
            "        active = told[1], frame = (uint64_t)(active - 1) * frame_bytes;",
            *(f"        {x} = told[{i}];" for i, x in enumerate(self.counters, 2)),
            f"        next = (const tw_record*){self.name}_code + {self.name}_starts[unit] + back[place];",
            "        ahead = *next++;",
            "        __syncthreads();  // before thread 0 meets the leading unit, which may tell something else",
            "        break;",
            "      }",
        ]
