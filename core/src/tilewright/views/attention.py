"""AttentionSpec: two contractions with a softmax between them, which can run over the keys in one pass.

It is found in what the stages of a group compute, not in what operators are called: a sum of products `S` over the
depth, any function `E` of S and of what is read at the same point, `exp(E - max E) / sum exp(E - max E)` over the keys,
and a sum over the keys of that times values. What stages pass on element by element is put in where it is read.

Taken block by block of keys, the sums are rescaled whenever the largest E so far grows (Dao et al., FlashAttention,
2022, section 3.1; Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from tilewright.ir.expr import Apply, Const, Expr, Load, Var, apply, cast, const, loads, substitute, variables
from tilewright.ir.ops import Access, Axis, Value, Write, combiner
from tilewright.views.kernel import KernelSpec, Store
from tilewright.views.maps import axis_bounds
from tilewright.views.resolve import Resolver, state_name
from tilewright.views.staged import StagedSpec


@attrs.frozen(cache_hash=True)
class AttentionSpec:
    """`weights = softmax over keys of scores; output = sum over keys of weights * values`.

    Args:
        batch: axes that queries share with keys or values.
        rows: axes of the queries alone.
        keys: the axis of the softmax.
        depth: axes that the scores sum over.
        columns: axes of the values alone.
        scores: over batch, rows and keys, with the depth as reduce axes; its body is a product of a query and a key,
            and its only store is what the softmax is taken of.
        output: over batch, rows and columns, with the keys as reduce axis; its body is the product of read 0, which is
            `weights` at batch, row and key, and a value.
        weights: what the softmax gives, of the dtype that it is rounded to.
        empty: where a row's weights are all 0, in place of what the softmax gives; in terms of the reads of `scores`,
            and the same for all keys.
        staged: what it is a view of.
    """

    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    keys: Axis
    depth: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    scores: KernelSpec
    output: KernelSpec
    weights: Value
    empty: Expr | None
    staged: StagedSpec


def attention_of(staged: StagedSpec) -> AttentionSpec | None:
    """The stages as attention, or None when they compute anything else besides."""
    last = staged.stages[-1]
    if staged.symbols or set(last.outputs) != set(staged.outputs) or not _is(last, "sum"):
        return None
    product = last.body[0]
    if not isinstance(product, Apply) or product.op != "mul" or product.dtype != "float32" or len(last.reduce) != 1:
        return None
    for weights, value in (product.args, product.args[::-1]):
        found = _Finder(staged, weights, value).find()
        if found is not None:
            return found
    return None


@attrs.frozen
class _Parts:
    """Numbers of the stages of the scores, their maximum and the sum of powers, and the dtype of the weights."""

    scores: int
    highest: int
    total: int
    dtype: str


class _Finder:
    """Looks for the parts of attention in stages of which the last is the sum over the keys.

    Args:
        weights, value: the factors of the last stage's product.

    Attributes:
        names: of each stage, its axes by the names that they have in common.
        axes: those, by name: "x…" for the scores' own, "d…" for the depth, "c…" for the columns.
    """

    def __init__(self, staged: StagedSpec, weights: Expr, value: Expr) -> None:
        self.stages, self.staged = staged.stages, staged
        self.number = len(staged.stages) - 1
        self.weights, self.value = weights, value
        self.names: dict[int, dict[str, Expr]] = {}
        self.axes: dict[str, Axis] = {}

    def find(self) -> AttentionSpec | None:
        """What the stages are, or None."""
        parts = self._parts()
        key = self._common(parts) if parts is not None else None
        return self._made(parts, key) if parts is not None and key is not None else None

    def _parts(self) -> _Parts | None:
        last = self.stages[self.number]
        probe = Resolver(self.staged, axis_bounds(last.axes))
        found = _softmax(probe.of(self.number, self.weights, {x.name: x.var for x in last.axes}))
        if probe.failed or found is None:
            return None
        makers = {state_name(i): i for i in range(self.number)}
        inner = [makers[x] for x in variables(found.score) & set(makers)]
        high, total = makers.get(found.highest), makers.get(found.total)
        if len(inner) != 1 or high is None or total is None or len({*inner, high, total}) != 3:
            return None
        if not (_is(self.stages[inner[0]], "sum") and _is(self.stages[high], "max") and _is(self.stages[total], "sum")):
            return None
        return _Parts(inner[0], high, total, found.dtype)

    def _common(self, parts: _Parts) -> str | None:
        """Names the axes of all stages as the scores do; the name of the keys."""
        first = self.stages[parts.scores]
        spatial, depth = ([x for x in axes if x.extent != const(1)] for axes in (first.spatial, first.reduce))
        if not depth or first.body[0].dtype != "float32":
            return None
        renamed = {x.name: f"x{i}" for i, x in enumerate(spatial)} | {x.name: f"d{i}" for i, x in enumerate(depth)}
        self.axes = {renamed[x.name]: attrs.evolve(x, name=renamed[x.name]) for x in (*spatial, *depth)}
        own = {x.name for x in self.axes.values() if x.kind == "spatial"}
        self._name(parts.scores, {old: Var(new) for old, new in renamed.items()})
        keys: set[tuple[Expr, ...]] = set()
        for number in (parts.highest, parts.total, self.number):
            stage = self.stages[number]
            mapping = self._mapped(number, parts.scores)
            if mapping is None or variables(*mapping.values()) != own:
                return None
            extents = {x.name: x.extent for x in stage.axes}
            if any(self.axes[n].extent != extents[x] for x, to in mapping.items() for n in variables(to)):
                return None
            left = [x for x in stage.axes if x.name not in mapping and x.extent != const(1)]
            if left and (number != self.number or any(x.kind == "reduce" for x in left)):
                return None
            columns = {x.name: attrs.evolve(x, name=f"c{i}") for i, x in enumerate(left)}
            self.axes |= {x.name: x for x in columns.values()}
            self._name(number, mapping | {old: x.var for old, x in columns.items()})
            keys.add(tuple(self.names[number][x.name] for x in stage.reduce if x.extent != const(1)))
        if len(keys) != 1 or len(key := keys.pop()) != 1 or not isinstance(key[0], Var):
            return None
        return key[0].name

    def _name(self, number: int, mapping: Mapping[str, Expr]) -> None:
        self.names[number] = {x.name: mapping.get(x.name, const(0)) for x in self.stages[number].axes}

    def _mapped(self, number: int, scores: int) -> dict[str, Expr] | None:
        """Common names of the axes of a stage, from where it reads the scores."""
        stage = self.stages[number]
        probe = Resolver(self.staged, axis_bounds(stage.axes))
        at: dict[str, Expr] = {x.name: const(0) if x.extent == const(1) else x.var for x in stage.axes}
        probe.of(number, self._body(number), at)
        points = probe.states.get(state_name(scores), set())
        if probe.failed or len(points) != 1:
            return None
        mapping: dict[str, Expr] = {}
        for axis, place in zip(self.stages[scores].spatial, next(iter(points)), strict=True):
            if axis.extent == const(1):
                continue
            if not isinstance(place, Var) or place.name in mapping:
                return None
            mapping[place.name] = self.names[scores][axis.name]
        return mapping

    def _body(self, number: int) -> Expr:
        return self.weights if number == self.number else self.stages[number].body[0]

    def _made(self, parts: _Parts, key: str) -> AttentionSpec | None:
        bounds = axis_bounds(tuple(self.axes.values()))
        seen = Resolver(self.staged, bounds)

        def of(number: int) -> Expr:
            return seen.of(number, self._body(number), self.names[number])

        product = of(parts.scores)
        body_reads = len(seen.reads)
        # The score as its maximum sees it, and everything else must see the same.
        score = _widened_from(of(parts.highest))
        powers = _shifted(of(parts.total))
        reads = len(seen.reads)
        quotient = _softmax(of(self.number))
        if quotient is None or powers is None or seen.failed:
            return None
        if quotient.empty is None and len(seen.reads) != reads:
            return None
        if quotient.empty is not None and key in _varying(quotient.empty, seen.reads):
            return None
        if powers != (score, state_name(parts.highest)) or (quotient.score, quotient.highest) != powers:
            return None
        reduced = (parts.scores, parts.highest, parts.total)
        points = {state_name(i): {tuple(self.names[i][x.name] for x in self.stages[i].spatial)} for i in reduced}
        if seen.states != points or (quotient.empty is not None and variables(quotient.empty) & set(points)):
            return None
        score = substitute(score, {state_name(parts.scores): Var("s0", "float32")})
        return self._split(parts, key, product, score, quotient.empty, seen, body_reads)

    def _split(
        self,
        parts: _Parts,
        key: str,
        product: Expr,
        score: Expr,
        empty: Expr | None,
        seen: Resolver,
        body_reads: int,
    ) -> AttentionSpec | None:
        """The specifications of both contractions, once the roles of the axes are known."""
        reads = tuple(seen.reads)
        own = [n for n, x in self.axes.items() if n[0] == "x"]
        point, shape = tuple(Var(n) for n in own), tuple(self.axes[n].extent for n in own)
        weights = Value("weights", parts.dtype, shape)
        output = Resolver(self.staged, axis_bounds(tuple(self.axes.values())))
        output.reads.append(Access(weights, point))
        names = self.names[self.number]
        value = output.of(self.number, self.value, names)
        value_reads = len(output.reads)
        if not isinstance(product, Apply) or product.op != "mul":
            return None
        query, keyed = sorted(product.args, key=lambda x: key in _varying(x, reads))
        of_key, of_value = _varying(keyed, reads), _varying(value, output.reads)
        if key in _varying(query, reads) or key not in of_key or key not in of_value:
            return None
        last = self.stages[self.number]
        if any(any(x is not None for x in (s.write.base, s.write.update, s.write.guard)) for s in last.stores):
            return None
        stores = []
        for store in last.stores:
            index = tuple(output.of(self.number, x, names) for x in store.write.index)
            write = attrs.evolve(store.write, index=index)
            stores.append(Store(write, output.of(self.number, store.expr, names)))
        if output.failed or output.states or seen.used | output.used != set(range(len(self.stages))):
            return None
        batch = tuple(self._axis(n) for n in own if n != key and n in of_key | of_value)
        rows = tuple(self._axis(n) for n in own if n != key and n not in of_key | of_value)
        depth = tuple(x for n, x in self.axes.items() if n[0] == "d")
        columns = tuple(x for n, x in self.axes.items() if n[0] == "c")
        keys = self._axis(key)
        sum_ = combiner("sum", "float32")
        scores = KernelSpec(
            f"{self.staged.name}.scores",
            (*batch, *rows, keys, *depth),
            reads,
            body_reads,
            (Apply("mul", (query, keyed), "float32"),),
            sum_,
            (Store(Write(Value("scores", score.dtype, shape), point), score),),
            self.staged.constants,
        )
        result = KernelSpec(
            f"{self.staged.name}.output",
            (*batch, *rows, *columns, attrs.evolve(keys, kind="reduce")),
            tuple(output.reads),
            value_reads,
            (Apply("mul", (cast(Load(0, parts.dtype), "float32"), value), "float32"),),
            sum_,
            tuple(stores),
            self.staged.constants,
        )
        return AttentionSpec(batch, rows, keys, depth, columns, scores, result, weights, empty, self.staged)

    def _axis(self, name: str) -> Axis:
        return attrs.evolve(self.axes[name], kind="spatial")


def _is(stage: KernelSpec, name: Literal["sum", "max"]) -> bool:
    """Whether a stage reduces one state by a standard combiner."""
    if stage.combiner is None or len(stage.body) != 1:
        return False
    wanted = combiner(name, stage.body[0].dtype)
    return (stage.combiner.identity, stage.combiner.combine) == (wanted.identity, wanted.combine)


@attrs.frozen
class _Softmax:
    """`exp(score - highest) / total`, rounded to a dtype, but 0 where `empty`; states by their variables."""

    score: Expr
    highest: str
    total: str
    dtype: str
    empty: Expr | None


def _softmax(expr: Expr) -> _Softmax | None:
    """The softmax that an expression is, if need be widened again after it was rounded."""
    dtype = expr.dtype
    if isinstance(expr, Apply) and expr.op == "cast" and dtype == "float32":
        expr = expr.args[0]
        dtype = expr.dtype
    empty = None
    if isinstance(expr, Apply) and expr.op == "select":
        empty, zero, expr = expr.args
        if expr == const(0, expr.dtype):
            empty, zero, expr = apply("not", empty), expr, zero
        if zero != const(0, dtype):
            return None
    if isinstance(expr, Apply) and expr.op == "cast":
        expr = expr.args[0]
    if not isinstance(expr, Apply) or expr.op != "div" or expr.dtype != "float32":
        return None
    power, total = expr.args
    found = _shifted(power)
    return _Softmax(*found, total.name, dtype, empty) if found is not None and isinstance(total, Var) else None


def _shifted(expr: Expr) -> tuple[Expr, str] | None:
    """Score and state of the maximum of `exp(score - maximum)`, in float32."""
    if not isinstance(expr, Apply) or expr.op != "exp" or expr.dtype != "float32":
        return None
    difference = expr.args[0]
    if not isinstance(difference, Apply) or difference.op != "sub":
        return None
    score, highest = (_widened_from(x) for x in difference.args)
    if not isinstance(highest, Var) or highest.dtype != score.dtype:
        return None
    return score, highest.name


def _widened_from(expr: Expr) -> Expr:
    """What an expression of float32 was widened from, or itself."""
    if isinstance(expr, Apply) and expr.op == "cast" and expr.dtype == "float32":
        inner = expr.args[0]
        return inner if inner.dtype in ("float16", "bfloat16") else expr
    return expr


def _varying(expr: Expr, reads: Sequence[Access]) -> frozenset[str]:
    """Names of the axes that an expression varies with, those behind its reads included."""
    names = set(variables(expr))
    for slot in loads(expr):
        for part in (*reads[slot].index, reads[slot].guard):
            if part is not None and not isinstance(part, Const):
                names |= _varying(part, reads)
    return frozenset(names)
