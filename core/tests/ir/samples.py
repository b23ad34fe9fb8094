"""A module with every kind of operator, and a program with every kind of control, for the tests of the IR."""

from __future__ import annotations

import attrs
import numpy as np

from tilewright.ir.choice import Packing, Resources, Slice, TileChoice
from tilewright.ir.events import event_bytes
from tilewright.ir.expr import Expr, Load, Var, all_of, apply, as_expr, cast, const, maximum, select
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.module import Constant, Function, Module, Symbol
from tilewright.ir.ops import (
    Access,
    Axis,
    Call,
    Combiner,
    If,
    Location,
    Loop,
    Region,
    Routine,
    ScanOp,
    TensorOp,
    Value,
    Write,
    combiner,
    value,
)
from tilewright.ir.program import (
    UNIT,
    Buffer,
    BufferKind,
    Envelope,
    Fetch,
    Item,
    Kernel,
    Lane,
    Launch,
    Near,
    Phase,
    Placement,
    Program,
    Signal,
    Storage,
    Task,
    Wait,
)


def axes(names: str, *extents: int | Expr) -> tuple[Axis, ...]:
    """Spatial axes by letter; `*` before a letter makes a reduce axis."""
    kinds = ["reduce" if x.startswith("*") else "spatial" for x in names.split()]
    plain = [x.lstrip("*") for x in names.split()]
    return tuple(
        Axis(n, as_expr(e), k)  # type: ignore[arg-type]
        for n, e, k in zip(plain, extents, kinds, strict=True)
    )


def elementwise(name: str, source: Value, target: Value, body: Expr | None = None) -> TensorOp:
    """`target = body(source)` of one shape; the identity without a body."""
    over = tuple(Axis(f"i{n}", e) for n, e in enumerate(source.shape))
    index = tuple(x.var for x in over)
    load = Load(0, source.dtype)
    return TensorOp(name, over, (Access(source, index),), (load if body is None else body,), (Write(target, index),))


def convolution(dtype: str = "float16") -> TensorOp:
    """A padded 3×3 convolution from `x` and `w` to `/conv/y`, accumulated in float32."""
    x, w = value("x", dtype, [1, 3, 8, 8]), value("w", dtype, [4, 3, 3, 3])
    y = value("/conv/y", dtype, [1, 4, 8, 8])
    over = axes("n c h w *k *r *s", 1, 4, 8, 8, 3, 3, 3)
    n, c, h, v, k, r, s = (a.var for a in over)
    row, column = h + r - 1, v + s - 1
    inside = all_of(const(0) <= row, row < 8, const(0) <= column, column < 8)
    return TensorOp(
        "conv",
        over,
        (Access(x, (n, k, row, column), inside, const(0.0, dtype)), Access(w, (c, k, r, s))),
        (cast(Load(0, dtype), "float32") * cast(Load(1, dtype), "float32"),),
        (Write(y, (n, c, h, v)),),
        combiner("sum", "float32"),
        loc=Location("/conv", "Conv", ("/conv/y",)),
    )


def argmax_combiner() -> Combiner:
    """Two states: the largest float16 and its first index."""
    a0, b0, a1, b1 = Var("a0", "float16"), Var("b0", "float16"), Var("a1"), Var("b1")
    first = apply("or", b0 < a0, apply("and", apply("eq", a0, b0), a1 <= b1))
    return Combiner("argmax", (const(float("-inf"), "float16"), const(0)), (maximum(a0, b0), select(first, a1, b1)))


def module() -> Module:
    """Convolution, an activation with a shared sub-expression, argmax, scan, scatter, routine, loop, branch, call."""
    conv = convolution()
    y = conv.outputs[0]
    z = value("z", "float16", [1, 4, 8, 8])
    load = Load(0, "float16")
    shared = load * 0.5 + load * load * load * 0.25
    act = elementwise("act", y, z, shared * apply("erf", shared) + apply("tanh", shared))
    best, where = value("best", "float16", [1, 8, 8]), value("where", "int64", [1, 8, 8])
    n, h, v, k = (a.var for a in axes("n h w *k", 1, 8, 8, 4))
    argmax = TensorOp(
        "argmax",
        axes("n h w *k", 1, 8, 8, 4),
        (Access(z, (n, k, h, v)),),
        (load, k),
        (Write(best, (n, h, v)), Write(where, (n, h, v))),
        argmax_combiner(),
    )
    sums = value("sums", "float16", [1, 8, 8])
    scan = ScanOp(
        "cumsum",
        axes("n h", 1, 8),
        Axis("w", const(8)),
        (Access(best, (n, h, v)),),
        (const(0.0, "float32"),),
        (Var("p0", "float32") + cast(load, "float32"),),
        (Var("s0", "float32"),),
        (Write(sums, (n, h, v)),),
    )
    counts = value("counts", "int64", [4])
    zero, one = value("zeros", "int64", [4]), const(1)
    histogram = TensorOp(
        "histogram",
        axes("h w", 8, 8),
        (Access(where, (const(0), h, v)),),
        (one,),
        (Write(counts, (Load(0, "int64"),), update=combiner("sum", "int64"), base=zero),),
    )
    top = Routine(
        "top",
        "topk",
        (sums,),
        (value("tv", "float16", [1, 8, 2]), value("ti", "int64", [1, 8, 2])),
        {"axis": -1, "largest": True, "note": 'a "b"', "scale": (1.5, float("inf"))},
        2,
        const(128),
    )
    again, cond, trip = value("i", "int64", []), value("go", "bool", []), value("count", "int64", [])
    state, grown, out = (value(x, "float16", [1, 8, 8]) for x in ("state", "grown", "out"))
    stacked = value("stacked", "float16", [3, 1, 8, 8])
    body = Region((again, cond, state), (elementwise("inc", state, grown, load + 1.0),), (cond, grown, grown))
    loop = Loop("repeat", trip, None, (sums,), (out, stacked), body)
    called, picked = value("called", "float16", [1, 8, 8]), value("picked", "float16", [1, 8, 8])
    flag = value("flag", "bool", [])
    branch = If(
        "choose",
        flag,
        Region((), (), (out,)),
        Region((), (Call("again", "same", (sums,), (called,)),), (called,)),
        (picked,),
    )
    p = value("p", "float16", [1, 8, 8])
    random = np.random.default_rng(0)
    main = Region(
        (conv.inputs[0], flag), (conv, act, argmax, scan, histogram, top, loop, branch), (picked, counts, stacked)
    )
    return Module(
        {"main": Function("main", main), "same": Function("same", Region((p,), (), (p,)))},
        {
            "w": Constant(random.standard_normal((4, 3, 3, 3)).astype(np.float16)),
            "count": Constant(np.array(3)),
            "zeros": Constant(np.zeros(4, np.int64)),
        },
        (Symbol("N", 1, 64),),
        "main",
        ("x in", '*/ [red]"<script>../'),
        ("picked", "counts", "stacked"),
    )


def cover() -> Cover:
    """The sample module's main region: one group of two operators, the others alone, with nested covers."""
    region = module().main.body
    conv, act, *rest = region.ops
    items: list[Group | ControlItem] = [
        Group("g0", (conv, act), act.outputs, (("/conv/y", "register"),))  # type: ignore[arg-type]
    ]
    for op in rest:
        if isinstance(op, Loop):
            inner = tuple(Group(x.name, (x,), x.outputs) for x in op.body.ops)  # type: ignore[arg-type]
            items.append(ControlItem(op, (Cover(op.body, inner),)))
        elif isinstance(op, If):
            call = ControlItem(op.orelse.ops[0], ())  # type: ignore[arg-type]
            items.append(ControlItem(op, (Cover(op.then, ()), Cover(op.orelse, (call,)))))
        else:
            items.append(Group(op.name, (op,), op.outputs))  # type: ignore[arg-type]
    return Cover(region, tuple(items))


def choice(tasks: int = 4) -> TileChoice:
    packing = Packing(1, (("c0", 2), ("c1", 2)), (("c", Var("c0") * 2 + Var("c1")),))
    return TileChoice("sample", {"m.block": 8}, Resources(tasks, 32, 16, 1024), (packing,), 1.5e-6, "because")


TASKS = 4
EVENTS = {"done": 2, "ring": 1, "free": 1, "full": 1, "t": TASKS, "u": TASKS}
"""Events of the launches that the tests make."""
SIZE = 16


def kernel(name: str, source: str, target: str, factor: float) -> Kernel:
    """`target = source · factor` on 16 floats in 4 tasks."""
    a, b = value(source, "float32", [SIZE]), value(target, "float32", [SIZE])
    op = elementwise(name, a, b, Load(0, "float32") * factor)
    chosen = TileChoice("sample", {"block": SIZE // TASKS}, Resources(TASKS, 32))
    return Kernel(name, Group(name, (op,), (b,)), chosen, (a, b))


def program(kind: str = "launches") -> Program:
    """`y = ((x · 2) · 3) · 5` as three launches, three phases, or one phase with events.

    The steps are numbered 0, 1, 2 in the first case; in the others there is one step.
    """
    kernels = {"double": kernel("double", "x", "t", 2), "triple": kernel("triple", "t", "u", 3)}
    kernels["five"] = kernel("five", "u", "y", 5)
    calls = [("double", ("x", "t")), ("triple", ("t", "u")), ("five", ("u", "y"))]

    def lane(*items: Task | Signal | Wait) -> Lane:
        return Lane(0, const(TASKS), items)

    tasks = [Task(name, args, Var(UNIT)) for name, args in calls]
    one = Envelope(TASKS, 32)
    together = Envelope(TASKS, 32, cooperative=True)
    if kind == "launches":
        body = tuple(Launch(t.kernel, one, (Phase((lane(t),)),)) for t in tasks)
    elif kind == "phases":
        body = (Launch("all", together, tuple(Phase((lane(t),)) for t in tasks), EVENTS),)
    else:
        meet = [(Signal("done", const(i)), Wait("done", const(i), const(TASKS))) for i in range(2)]
        items = (tasks[0], *meet[0], tasks[1], *meet[1], tasks[2])
        body = (Launch("all", together, (Phase((lane(*items),)),), EVENTS),)
    last = 2 if kind == "launches" else 0
    size = SIZE * 4
    buffers = [Buffer("x", "input", size), Buffer("y", "output", size), Buffer("work", "workspace", 2 * size)]
    if kind != "launches":
        buffers.append(Buffer("all.events", "event", event_bytes(body[0])))
    x, y, t, u = (value(n, "float32", [SIZE]) for n in "xytu")
    placements = [
        Placement(x, "x", 0, size, 0, last),
        Placement(y, "y", 0, size, 0, last),
        Placement(t, "work", 0, size, 0, min(1, last)),
        Placement(u, "work", size, size, min(1, last), last),
    ]
    storage = Storage({b.name: b for b in buffers}, {p.value.name: p for p in placements})
    return Program((x,), (y,), kernels, body, storage, {})


def near_program(*items: Item, own_bytes: int = 16) -> Program:
    """`y = x · w` on 16 floats in 4 tasks, each on a unit of its own that does what `items` say.

    By default it fetches the 16 bytes of `w` that its task reads, and runs the task near these.
    """
    x, w, y = (value(n, "float32", [SIZE]) for n in "xwy")
    at = Axis("i", const(SIZE))
    reads, index = (Access(x, (at.var,)), Access(w, (at.var,))), (at.var,)
    op = TensorOp("scale", (at,), reads, (Load(0, "float32") * Load(1, "float32"),), (Write(y, index),))
    chosen = TileChoice("sample", {"block": 4}, Resources(TASKS, 32), slices=(Slice(1, 0, 16, 64),))
    scale = Kernel("scale", Group("scale", (op,), (y,)), chosen, (x, w, y), sliced=(1,))
    near = Task("scale", ("x", "w", "y"), Var(UNIT), near=Near(0, 1))
    done = items or (Fetch("w", Var(UNIT) * 16, 16, 0), near)
    envelope = Envelope(TASKS, 32, own_bytes=own_bytes)
    body = (Launch("all", envelope, (Phase((Lane(0, const(TASKS), done),)),)),)
    kinds: dict[str, BufferKind] = {"x": "input", "w": "weight", "y": "output"}
    buffers = {n: Buffer(n, kind, SIZE * 4) for n, kind in kinds.items()}
    buffers["all.events"] = Buffer("all.events", "event", event_bytes(attrs.evolve(body[0], events={"met": 1})))
    places = {v.name: Placement(v, v.name, 0, SIZE * 4, 0, 0) for v in (x, w, y)}
    constants = {"w": Constant(np.arange(SIZE, dtype=np.float32))}
    return Program((x,), (y,), {"scale": scale}, body, Storage(buffers, places), constants)
