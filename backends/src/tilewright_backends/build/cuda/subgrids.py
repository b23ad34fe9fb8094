"""Source of persistent kernels whose blocks divide among calls that run side by side (`led.ForkWriter`).

A block knows the sub-grid that it is a part of (`here`), and keeps the larger ones around it in its shared memory
(`above`). Each sub-grid has a line for the tickets of its barriers and for how many of its parts are over, and one for
what its leader tells the others; barriers order what blocks do as those of the whole grid do.

A part is over when its call is: its blocks wait at the larger sub-grid's barrier. Who leads the last one goes on as the
leader of the larger one; what it needs stands in memory. If it comes to a fork before that, it takes the others in: it
leads the larger sub-grid from there on, and its call goes on on all of that. So a call that has more to do than those
beside it gets their blocks, wherever the larger tree of calls may be.

A call that is too deep ends that of the sub-grid that makes it. Who leads the larger one learns of it when all parts
are over, and ends its own call, until none is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.events import LINE, subgrid_offset
from tilewright.ir.program import Launch
from tilewright.ir.stack import GRID_WORDS, WORD
from tilewright_backends.build.cuda.led import CALL_BITS, WIDTH_BITS
from tilewright_backends.build.cuda.records import ASIDE, FRAMED, REGIONAL, Kind

TOLD = 3
"""Numbers that a leader tells besides counters and limits: a place, active calls, and the region."""
LOST = LINE // WORD - 1
"""The number of a sub-grid's line that says whether a call of a part was too deep."""
OVER, LEFT = -1, -2
"""What blocks are told in place of a place: the launch is over, and so is the call of this part."""

PREAMBLE = f"""\
struct tw_grid {{ int number, first, units, region, regions, parts; }};
__forceinline__ __device__ uint64_t* tw_grid_tickets(uint64_t lines, int number) {{
  return (uint64_t*)(lines + (uint64_t)number * {2 * LINE});
}}
__forceinline__ __device__ uint64_t* tw_grid_over(uint64_t lines, int number) {{
  return tw_grid_tickets(lines, number) + 1;
}}
__forceinline__ __device__ volatile int* tw_grid_told(uint64_t lines, int number) {{
  return (volatile int*)(lines + (uint64_t)number * {2 * LINE} + {LINE});
}}
"""

_KEPT = ("number", "first", "units", "region", "regions", "parts")
assert len(_KEPT) == GRID_WORDS


def _skip(number: int) -> str:
    """Goes to another record."""
    return f"next += n[{number}] - 1, ahead = *next++"


@attrs.frozen
class SubgridText:
    """Pieces of the source of one kernel.

    Args:
        name: of the kernel.
        depth: calls that may be active.
        loops: variables of loops' counters, and of their limits.
        kept: those that calls keep.
        region_bytes: of what a region owns.
        status: where a call that was too deep is reported.
        each: numbers that a call keeps.
        places: of the table in front of what a unit keeps of sub-grids.
    """

    name: str
    launch: Launch
    depth: int
    loops: Sequence[str]
    kept: Sequence[str]
    region_bytes: int
    status: str
    each: int
    places: int

    marks = ASIDE
    """The lowest bit of an argument that says something besides its place in a buffer."""

    def declarations(self) -> list[str]:
        """Behind those of the table of places, and of where calls keep what they need."""
        units, how = self.launch.envelope.units, self.launch.subgrids
        return [
            f"  int* const said = back + {self.places};  // by one thread to all",
            "  int* const above = said + 1;",
            f"  const uint64_t lines = t.at[0] + {subgrid_offset(self.launch)};",
            f"  tw_grid here = {{0, 0, {units}, 0, {how.regions}, 0}};",
            "  int level = 0;  // forks that `here` is inside of",
            "  bool leads = unit == 0;",
            "  int region = 0, behind = 0;  // of the call that runs; from there to that of its caller",
            "  int within = 0;  // forks that the call was inside of that has returned last",
            "  int played = 0, played_end = 0;",
            "  bool lost = false;",
        ]

    def address(self, argument: str) -> str:
        """What is added to the address of an argument for the frame and the region that it is in."""
        aside = f"({argument} & {ASIDE}ull ? (uint64_t)(int64_t)behind : 0)"
        framed = f"({argument} & {FRAMED}ull ? frame + {aside} * {self.depth} * frame_bytes : 0)"
        there = f"((uint64_t)region + {aside}) * {self.region_bytes}ull"
        return f"{framed} + ({argument} & {REGIONAL}ull ? {there} : 0)" if self.region_bytes else framed

    def _frame(self) -> str:
        return f"frame = ((uint64_t)region * {self.depth} + (uint64_t)active - 1) * frame_bytes"

    def barrier(self) -> list[str]:
        """One thread meets the other blocks of the sub-grid."""
        return [
            "        if (thread == 0 && here.units > 1) {",
            "          uint64_t* tickets = tw_grid_tickets(lines, here.number);",
            "          const uint64_t ticket = tw_gpu_ticket(tickets);",
            "          const uint64_t all = (ticket / (unsigned)here.units + 1) * (unsigned)here.units;",
            "          if (ticket + 1 < all)",
            "            for (int tries = 0; tw_gpu_tickets(tickets) < all; ++tries) tw_gpu_pause(tries);",
            "        }",
            "        __syncthreads();",
        ]

    def cases(self) -> list[str]:
        """All that such kernels do in their own way."""
        return [*self._calls(), *self._dividing(), *self._leaving(), *self._telling(), *self._playing()]

    def _calls(self) -> list[str]:
        """Calls and returns of a leader."""
        place = f"deep + ((int64_t)region * {self.depth} + active) * {self.each}"
        return [
            f"      case {Kind.ROOM:d}:",
            f"        if (active < {self.depth}) break;",
            f"        if (thread == 0) *(volatile int*){self.status} = n[0];",
            "        lost = true;",
            "        goto tw_leave;",
            f"      case {Kind.CALL:d}: {{",
            "        if (thread == 0) {",
            f"          int* kept = {place};",
            "          kept[0] = n[1], kept[1] = level, kept[2] = region + behind;",
            *(f"          kept[{i}] = {x};" for i, x in enumerate(self.kept, 3)),
            "        }",
            "        ++active, frame += frame_bytes, behind = 0;",
            f"        {_skip(0)};",
            "        __syncthreads();",
            "        break;",
            "      }",
            f"      case {Kind.RETURN:d}: {{",
            "        --active, frame -= frame_bytes;",
            f"        const volatile int* kept = {place};",
            f"        next = (const tw_record*){self.name}_code + {self.name}_starts[unit] + back[kept[0]];",
            "        within = kept[1], behind = kept[2] - region;",
            *(f"        {x} = kept[{i}];" for i, x in enumerate(self.kept, 3)),
            "        ahead = *next++;",
            "        __syncthreads();",
            "        break;",
            "      }",
        ]

    def _dividing(self) -> list[str]:
        how = self.launch.subgrids
        width = f"(n[1] >> {CALL_BITS} & {(1 << WIDTH_BITS) - 1})"
        return [
            f"      case {Kind.FOLLOW:d}:",
            f"        if (!leads) {_skip(0)};",
            "        break;",
            f"      case {Kind.FORK:d}:",
            *self._taking_in(),
            f"        if (level == {how.levels} || here.units < {width}) {{ {_skip(0)}; break; }}",
            "        if (thread == 0) {",
            "          *(volatile uint64_t*)tw_grid_over(lines, here.number) = 0;",
            f"          tw_grid_told(lines, here.number)[{LOST}] = 0;",
            "        }",
            "        break;",
            f"      case {Kind.SPLIT:d}: {{",
            f"        const int call = n[2] & {(1 << CALL_BITS) - 1};",
            f"        const int of = n[2] >> {CALL_BITS} & {(1 << WIDTH_BITS) - 1};",
            "        const int from = here.first + here.units * call / of;",
            "        const int until = here.first + here.units * (call + 1) / of;",
            f"        if (unit < from || unit >= until) {{ {_skip(0)}; break; }}",
            "        if (thread == 0) {",
            f"          int* kept = above + level * {GRID_WORDS};",
            *(f"          kept[{i}] = here.{x};" for i, x in enumerate(_KEPT)),
            "        }",
            f"        here.number = here.number * {sum(how.widths)} + (n[2] >> {CALL_BITS + WIDTH_BITS}) + call + 1;",
            f"        here.first = from, here.units = until - from, here.regions /= {max(how.widths)};",
            "        here.region += call * here.regions, here.parts = of, ++level;",
            "        behind = region - here.region, region = here.region;",
            f"        {self._frame()};",
            "        leads = unit == from;",
            "        __syncthreads();",
            f"        if (!leads) {_skip(1)};",
            "        break;",
            "      }",
        ]

    def _taking_in(self) -> list[str]:
        """The leader of the last part that is not over leads the larger sub-grid from now on."""
        return [
            "        while (level) {",
            f"          const int larger = above[(level - 1) * {GRID_WORDS}];",
            "          if (thread == 0) said[0] = (int)tw_gpu_tickets(tw_grid_over(lines, larger));",
            "          __syncthreads();",
            "          const int over = said[0];",
            "          __syncthreads();",
            "          if (over + 1 < here.parts) break;",
            *self._let_go(),
            *self._back(),
            *self.barrier(),
            f"          lost = tw_grid_told(lines, here.number)[{LOST}];",
            "          if (lost) goto tw_leave;",
            "        }",
        ]

    def _let_go(self) -> list[str]:
        """The other blocks of a part go to the larger sub-grid's barrier; nobody need wait for them."""
        return [
            "        if (thread == 0) {",
            f"          tw_grid_told(lines, here.number)[0] = level ? {LEFT} : {OVER};",
            "          if (here.units > 1) tw_gpu_ticket(tw_grid_tickets(lines, here.number));",
            "        }",
        ]

    def _leaving(self) -> list[str]:
        return [
            f"      case {Kind.JOINED:d}:",
            f"        if (!tw_grid_told(lines, here.number)[{LOST}]) break;",
            "        lost = true;",
            "        goto tw_leave;",
            f"      case {Kind.LEAVE:d}:",
            "        lost = false, region += behind, behind = 0;",
            f"        {self._frame()};",
            # The call has got the larger sub-grid before, whose blocks are waiting already.
            "        if (level < within) { next += n[0], ahead = *next++; break; }",
            "      tw_leave:",
            *self._let_go(),
            "        if (!level) return;",
            "        if (thread == 0) {",
            f"          const int larger = above[(level - 1) * {GRID_WORDS}];",
            f"          if (lost) tw_grid_told(lines, larger)[{LOST}] = 1;",
            "          said[0] = tw_gpu_ticket(tw_grid_over(lines, larger)) + 1 == here.parts;",
            "        }",
            "        __syncthreads();",
            "        leads = said[0];",
            *self._back(),
            f"        if (!leads) {{ {_skip(2)}; break; }}",
            f"        if (!lost) {{ {_skip(0)}; break; }}",
            *self.barrier(),
            "        goto tw_leave;",
        ]

    def _back(self) -> list[str]:
        """The larger sub-grid again."""
        return [
            "        {",
            f"          const int* kept = above + --level * {GRID_WORDS};",
            *(f"          here.{x} = kept[{i}];" for i, x in enumerate(_KEPT)),
            "        }",
        ]

    def _telling(self) -> list[str]:
        return [
            f"      case {Kind.TELL:d}:",
            "        if (thread == 0) {",
            "          volatile int* told = tw_grid_told(lines, here.number);",
            "          told[0] = n[0], told[1] = active, told[2] = region;",
            *(f"          told[{i}] = {x};" for i, x in enumerate(self.loops, TOLD)),
            "        }",
            "        break;",
            f"      case {Kind.LISTEN:d}: {{",
            "        const volatile int* told = tw_grid_told(lines, here.number);",
            "        const int place = told[0];",
            f"        if (place == {OVER}) return;",
            f"        if (place == {LEFT}) {{",
            *self._back(),
            f"          {_skip(0)};",
            "        } else {",
            "          active = told[1], region = told[2];",
            f"          {self._frame()};",
            *(f"          {x} = told[{i}];" for i, x in enumerate(self.loops, TOLD)),
            f"          next = (const tw_record*){self.name}_code + {self.name}_starts[unit] + back[place];",
            "          ahead = *next++;",
            "        }",
            "        __syncthreads();  // before thread 0 meets the leading unit, which may tell something else",
            "        break;",
            "      }",
        ]

    def _playing(self) -> list[str]:
        return [
            f"      case {Kind.TURNS:d}: {{",
            "        const int rest = (unit - here.first - n[1]) % here.units;",
            "        played = n[1] + rest + (rest < 0 ? here.units : 0), played_end = n[1] + n[2];",
            f"        if (played >= played_end) {_skip(0)};",
            "        break;",
            "      }",
            f"      case {Kind.AGAIN:d}:",
            f"        if ((played += here.units) < played_end) {_skip(0)};",
            "        break;",
        ]
