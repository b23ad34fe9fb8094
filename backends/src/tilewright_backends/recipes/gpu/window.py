"""`window`: sliding windows (depthwise convolution, pooling); a thread computes a small tile from few loads."""

from __future__ import annotations

import math

import attrs
import numpy as np

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Apply, Const, Expr, const, loads, maximum, minimum, select, walk
from tilewright.ir.ops import Axis
from tilewright.recipes import Constraint, Match, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, FlatStore
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    counted,
    most,
    on_gpus,
    operations,
    parameter,
    points,
    symbolic_spec,
)
from tilewright_backends.recipes.gpu.sectors import SECTOR, WARP, by_step, delivered, digits, sampled, touched
from tilewright_backends.recipes.gpu.slides import Slide, slide_of
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "window"
_MOST_STEPS = 64
"""Elements of a window; every step of every output of a thread is code of its own."""
_MOST_CODE = 640
"""Steps of all outputs of a thread."""
_ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
_COLUMNS = (1, 2, 3, 4)


@attrs.frozen
class Window:
    """A reduction over windows that slide along the spatial axes.

    Args:
        spec: the specification, `y` and `x` its innermost spatial axes.
        x: the axis along which neighbouring threads lie.
        y: another axis along which windows slide, or None.
        slides_x: for each read of the body how it moves along `x`.
        slides_y: likewise along `y`.
        over_x: the reduce axis that slides along `x`, or None.
        over_y: the one that slides along `y`, or None.
    """

    spec: FlatSpec
    x: Axis
    y: Axis | None
    over_x: Axis | None
    over_y: Axis | None
    slides_x: tuple[Slide, ...]
    slides_y: tuple[Slide, ...]

    @property
    def planes(self) -> tuple[Axis, ...]:
        """The spatial axes of which a thread has one point."""
        return tuple(a for a in self.spec.spatial if a not in (self.x, self.y))

    @property
    def outer(self) -> tuple[Axis, ...]:
        """The reduce axes of windows that slide along planes."""
        return tuple(a for a in self.spec.reduce if a not in (self.over_x, self.over_y))

    @property
    def sliding(self) -> tuple[int, ...]:
        """The reads that move along both axes, or the one that there is."""
        slides = zip(self.slides_y, self.slides_x, strict=True)
        return tuple(i for i, (y, x) in enumerate(slides) if x.stride and (y.stride or self.y is None))

    @property
    def rows(self) -> int:
        """Extent of `y`."""
        return 1 if self.y is None else points((self.y,))

    @property
    def columns(self) -> int:
        """Extent of `x`."""
        return points((self.x,))


def window_of(kernel: KernelSpec) -> Window | None:
    """The windows of a kernel, or None when it reduces over anything else."""
    spec = symbolic_spec(kernel)
    reads = spec.reads[: spec.body_reads]
    if spec.combiner is None or spec.scatters or not spec.spatial or not spec.reduce:
        return None
    if any(loads(r.address, r.guard) for r in reads) or not all(isinstance(a.extent, Const) for a in spec.reduce):
        return None
    if points(spec.reduce) > _MOST_STEPS:
        return None
    over: dict[str, Axis] = {}
    for reduced in spec.reduce:
        along = [a for a in spec.spatial if a.name not in over and _overlaps(reads, a, reduced)]
        if not along:
            return None
        over[along[-1].name] = reduced
    x = spec.spatial[-1]
    y = next((a for a in reversed(spec.spatial) if a is not x and a.name in over), None)
    if not all(isinstance(a.extent, Const) and points((a,)) for a in (x, y) if a is not None):
        return None
    over_x, over_y = over.get(x.name), over.get(y.name) if y is not None else None
    inner = [a for a in (over_y, over_x) if a is not None]
    if list(spec.reduce[len(spec.reduce) - len(inner) :]) != inner:
        return None  # results are summed in the order of the axes, rows outside
    planes = tuple(a for a in spec.spatial if a not in (x, y))
    spec = attrs.evolve(spec, axes=(*planes, *(a for a in (y, x) if a is not None), *spec.reduce))
    slides_x = tuple(slide_of(r, x, over_x) for r in reads)
    return Window(spec, x, y, over_x, over_y, slides_x, tuple(slide_of(r, y, over_y) for r in reads))


def _overlaps(reads: tuple[FlatAccess, ...], axis: Axis, reduced: Axis) -> bool:
    """Whether the windows of neighbours along an axis share elements of a read."""
    if not isinstance(axis.extent, Const):
        return False
    extents = points((axis,)), points((reduced,))
    return any(slide.overlaps(*extents) for slide in (slide_of(r, axis, reduced) for r in reads))


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    window = window_of(kernel)
    if window is None:
        return None
    spec = window.spec
    combiner = spec.combiner
    assert combiner is not None
    parameters = (
        parameter("y.thread", [n for n in _ROWS if n <= window.rows], role="y", level="register"),
        parameter("x.thread", [n for n in _COLUMNS if n <= window.columns], role="x", level="register"),
        parameter("threads", (64, 128, 256), align=device.warp),
    )
    rows, columns, threads = (p.var for p in parameters)
    per_row, per_plane = ceil_div(window.columns, columns), ceil_div(window.rows, rows)
    each = per_row * per_plane
    planes = most(spec, window.planes)
    steps = points(spec.reduce)
    states = sum(max(dtypes.size_of(d), 4) // 4 for d in combiner.dtypes)
    if len(combiner.dtypes) > 1:
        states = states * 5 // 2  # what an update needs besides, of several outputs at a time
    registers = 28 + rows * columns * states + _held(window, rows, columns)
    tasks = ceil_div(each * planes, threads)
    axes = {
        "p": tuple(a.name for a in window.planes),
        "y": () if window.y is None else (window.y.name,),
        "x": (window.x.name,),
        "k": tuple(a.name for a in spec.reduce),
    }
    along_y = maximum(minimum(threads // per_row, per_plane), const(1))
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=axes,
        extents={"p": planes, "y": window.rows, "x": window.columns, "k": steps},
        parameters=parameters,
        constraints=(
            Constraint(rows, const(window.rows), "rows of a thread"),
            Constraint(columns, const(window.columns), "columns of a thread"),
            Constraint(rows * columns * steps, const(_MOST_CODE), "unrolled steps of a thread"),
            *block_limits(threads, registers, const(0), device),
        ),
        usage=Usage(tasks, threads, registers),
        work=_work(window, tasks * threads, (rows, columns, threads, per_row, per_plane)),
        operands=operands_of(spec, axes, windows=window.sliding),
        tiles={
            "register": {"y": rows, "x": columns},
            "block": {
                "p": maximum(threads // each, const(1)),
                "y": along_y * rows,
                "x": minimum(threads, per_row) * columns,
            },
        },
        count=ceil_div(each * counted(window.planes), threads) if spec.symbols else None,
        detail=window,
    )


def _held(window: Window, rows: Expr, columns: Expr) -> Expr:
    """Registers for a row of each windowed read, and for what all outputs share: all of it where rows share it too."""
    total: Expr = const(0)
    for number, read in enumerate(window.spec.reads[: window.spec.body_reads]):
        words = max(dtypes.size_of(read.value.dtype), 4) // 4
        across = _places(window, number, columns, along_y=False)
        down = 1 if window.over_y is None else points((window.over_y,))
        if window.slides_y[number].stride:
            total = total + across * words
        else:
            total = total + across * words * select(const(1) < rows, const(down), const(1))
    return total


def _places(window: Window, number: int, size: Expr, *, along_y: bool) -> Expr:
    """Different elements of read `number` that a thread's tile needs along an axis."""
    axis, over = (window.y, window.over_y) if along_y else (window.x, window.over_x)
    slide = (window.slides_y if along_y else window.slides_x)[number]
    steps = 1 if over is None else points((over,))
    sizes = [n for n in (_ROWS if along_y else _COLUMNS) if n <= (1 if axis is None else points((axis,)))]
    return by_step(size, {n: slide.places(n, steps) for n in sizes})


def _work(window: Window, all_threads: Expr, sizes: tuple[Expr, Expr, Expr, Expr, Expr]) -> Work:
    rows, columns, threads, per_row, per_plane = sizes
    spec = window.spec
    combiner = spec.combiner
    assert combiner is not None
    warps = ceil_div(all_threads, WARP)
    steps, outer = points(spec.reduce), points(window.outer)
    near: Expr = const(0)
    far: Expr = const(0)
    instructions: Expr = const(_PROLOGUE)
    for number, read in enumerate(spec.reads[: spec.body_reads]):
        issued = _places(window, number, rows, along_y=True) * _places(window, number, columns, along_y=False) * outer
        sectors = _sectors_by_column(window, read)
        near = near + warps * issued * _delivered(columns, sectors)
        instructions = instructions + issued * (1 if read.guard is None else _GUARDED)
        passed = warps * issued * _moved(columns, sectors)
        held = bounds_of(read.value.num_elements(), spec.symbol_bounds).high * dtypes.size_of(read.value.dtype)
        slide = window.slides_y[number]
        if slide.stride and window.over_y is not None:
            # Blocks read the rows between them twice; inside of a block the first-level cache has them.
            step = maximum(minimum(threads // per_row, per_plane), const(1)) * rows * slide.stride
            halo = max((points((window.over_y,)) - 1) * abs(slide.dilation) + 1 - slide.stride, 0)
            again = select(threads < per_row * per_plane, halo * const(held) // step, const(0))
            passed = minimum(passed, const(held) + again)
        far = far + passed
    after = spec.reads[spec.body_reads :]
    moved_once: tuple[FlatAccess | FlatStore, ...] = (*after, *spec.stores)
    for access in moved_once:
        sectors = _sectors_by_column(window, access)
        far = far + warps * rows * columns * _moved(columns, sectors)
        near = near + warps * rows * columns * _delivered(columns, sectors)
    # A product and a sum are one instruction, an extreme that keeps NaN is four.
    extremes = sum(isinstance(x, Apply) and x.op in ("min", "max") for e in combiner.combine for x in walk(e))
    products = (operations(*spec.body) + operations(*combiner.combine) + 1) // 2 + 3 * extremes
    finish = 2 * (operations(*(s.expr for s in spec.stores)) + len(spec.stores) + len(after))
    instructions = instructions + rows * columns * (steps * products + finish)
    return Work(
        flops=all_threads * instructions * 2,
        traffic={"dram": const(memory_bytes(spec)), "l2": far, "shared": near},
        efficiency=const(_EFFICIENCY),
        serial=2 + _places(window, 0, rows, along_y=True) // 4 if spec.body_reads else const(2),
    )


_PROLOGUE = 50
"""Instructions of a thread before its first load: the divisions of its number, addresses, conditions."""
_GUARDED = 2
"""Instructions of a load that may lie outside: what stands there instead, and the load under a predicate."""
_EFFICIENCY = 60
"""Percent of the issue slots that are filled while loads are under way."""


def _sectors_by_column(window: Window, access: FlatAccess | FlatStore) -> dict[int, float]:
    """Sectors that a warp's access touches, by the columns of a thread."""
    spec = window.spec
    found = {}
    for columns in _COLUMNS:
        if columns > window.columns:
            break
        per_row = math.ceil(window.columns / columns)
        thread = sampled(most(spec, window.planes) * window.rows * per_row)[:, None] + np.arange(WARP)[None, :]
        axes = tuple(a for a in spec.spatial if a is not window.x)
        x = np.minimum(thread % per_row * columns, window.columns - columns)
        at = digits(spec, axes, thread // per_row) | {window.x.name: x}
        at |= {a.name: np.zeros_like(thread) for a in spec.reduce}
        found[columns] = touched(spec, access, at)
    return found


def _moved(columns: Expr, sectors: dict[int, float]) -> Expr:
    return by_step(columns, {n: round(x * SECTOR) for n, x in sectors.items()})


def _delivered(columns: Expr, sectors: dict[int, float]) -> Expr:
    return by_step(columns, {n: delivered(1, x) for n, x in sectors.items()})


CUDA, ROCM = on_gpus(NAME, match, 5)
