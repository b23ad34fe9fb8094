"""Random expressions and modules."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tilewright.ir import dtypes
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import OPS, Apply, Const, Expr, Load, Var, apply, const
from tilewright.ir.module import Constant, Function, Module
from tilewright.ir.ops import Access, Axis, Region, TensorOp, Value, Write, combiner, value

VARIABLES = {"i": "int64", "j": "int64", "x y": "int64", "a0": "float32", "h": "float16", "m": "int32", "t": "bool"}
LOADS = ("float32", "int64", "float16", "uint8", "bool", "int8")


@st.composite
def literals(draw: st.DrawFn, dtype: str) -> Const:
    if dtype == "bool":
        return const(draw(st.booleans()), dtype)
    if dtypes.is_float(dtype):
        return const(draw(st.floats() | st.integers(-4, 4).map(float)), dtype)
    low, high = dtypes.integer_range(dtype)
    return const(draw(st.integers(low, high) | st.integers(max(low, -4), 4)), dtype)


def leaves(dtype: str) -> st.SearchStrategy[Expr]:
    found: list[Expr] = [Var(n, d) for n, d in VARIABLES.items() if d == dtype]
    found += [Load(i, d) for i, d in enumerate(LOADS) if d == dtype]
    return literals(dtype) | st.sampled_from(found) if found else literals(dtype)


@st.composite
def exprs(draw: st.DrawFn, dtype: str, depth: int = 4) -> Expr:
    """Well-typed trees of any operator, put together without folding."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(leaves(dtype))
    kind = "f" if dtypes.is_float(dtype) else "b" if dtype == "bool" else "i"
    fitting = [o for o, x in OPS.items() if (kind == "b" if x.result == "bool" else kind in x.kinds)]
    op = draw(st.sampled_from(fitting))
    info = OPS[op]
    if info.result == "cast":
        same = [d for d in dtypes.DTYPES if dtypes.bits(d) == dtypes.bits(dtype)]
        source = draw(st.sampled_from(same if op == "bitcast" else dtypes.DTYPES))
        return Apply(op, (draw(exprs(source, depth - 1)),), dtype)
    inner = dtype
    if info.result == "bool":
        kinds = [d for d in dtypes.DTYPES if _kind(d) in info.kinds]
        inner = draw(st.sampled_from(kinds))
    args = [draw(exprs("bool" if op == "select" and i == 0 else inner, depth - 1)) for i in range(info.arity)]
    return Apply(op, tuple(args), dtype)


def _kind(dtype: str) -> str:
    return "f" if dtypes.is_float(dtype) else "b" if dtype == "bool" else "i"


any_expr = st.sampled_from(dtypes.DTYPES).flatmap(exprs)

INDEX_OPS = ("add", "sub", "mul", "floordiv", "floormod", "min", "max", "neg", "abs", "select", "truncdiv")
BOUNDS = {"i": Interval(0, 7), "j": Interval(0, 63), "k": Interval(-5, 5), "n": Interval(1, 100)}


@st.composite
def index_exprs(draw: st.DrawFn, depth: int = 4, dtype: str = "int64") -> Expr:
    """What indices and extents are made of, folded as it is built."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        small = st.integers(-9, 70).map(lambda x: const(x, dtype))
        return draw(small | st.sampled_from([Var(x, dtype) for x in BOUNDS]))
    op = draw(st.sampled_from(INDEX_OPS))
    deeper = index_exprs(depth - 1, dtype)
    if op in ("floordiv", "floormod"):
        return apply(op, draw(deeper), draw(st.integers(1, 64)))
    if op == "select":
        compare = draw(st.sampled_from(["lt", "le", "eq"]))
        return apply(op, apply(compare, draw(deeper), draw(deeper)), draw(deeper), draw(deeper))
    if op in ("neg", "abs"):
        return apply(op, draw(deeper))
    return apply(op, draw(deeper), draw(deeper))


def points(count: int = 64, dtype: str = "int64") -> dict[str, np.ndarray]:
    """Values of the variables of `BOUNDS`, the ends of their intervals among them."""
    random = np.random.default_rng(1)
    return {
        name: np.concatenate([[x.low, x.high, x.low, x.high], random.integers(x.low, x.high + 1, count)]).astype(dtype)[
            random.permutation(count + 4)
        ]
        for name, x in BOUNDS.items()
    }


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """Chains of element-wise operators, reductions and transposes on float32 and int32, with a constant operand."""
    ops: list[TensorOp] = []
    dtype = draw(st.sampled_from(["float32", "int32"]))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    first = value(draw(st.sampled_from(["x", "in put", "1"])), dtype, shape)
    known: list[Value] = [first]
    constants: dict[str, Constant] = {}
    for number in range(draw(st.integers(1, 4))):
        source = draw(st.sampled_from(known))
        kind = draw(st.sampled_from(["unary", "reduce", "transpose", "scale"] if source.rank else ["unary"]))
        over = tuple(Axis(f"i{n}", e) for n, e in enumerate(source.shape))
        index = tuple(a.var for a in over)
        reads = [Access(source, index)]
        body: Expr = Load(0, dtype)
        if kind == "reduce":
            at = draw(st.integers(0, source.rank - 1))
            spatial = over[:at] + over[at + 1 :]
            target = Value(f"v{number}", dtype, tuple(a.extent for a in spatial))
            merge = combiner(draw(st.sampled_from(["sum", "max"])), dtype)
            reduced = Axis(f"i{at}", over[at].extent, "reduce")
            writes = (Write(target, tuple(a.var for a in spatial)),)
            ops.append(TensorOp(f"op{number}", (*spatial, reduced), tuple(reads), (body,), writes, merge))
        else:
            order = draw(st.permutations(range(source.rank))) if kind == "transpose" else range(source.rank)
            if kind == "unary":
                body = apply(draw(st.sampled_from(["neg", "abs"])), body)
            if kind == "scale":
                name = f"c {number}"
                data = np.arange(source.static_shape()[0]).astype(dtype) + np.dtype(dtype).type(0.5)
                constants[name] = Constant(data.astype(dtype))
                reads.append(Access(constants[name].value(name), (index[0],)))
                body = body * Load(1, dtype)
            target = Value(f"v{number}", dtype, tuple(source.shape[n] for n in order))
            writes = (Write(target, tuple(index[n] for n in order)),)
            ops.append(TensorOp(f"op{number}", over, tuple(reads), (body,), writes))
        known.append(target)
    main = Region((first,), tuple(ops), (known[-1],))
    return Module({"main": Function("main", main)}, constants)
