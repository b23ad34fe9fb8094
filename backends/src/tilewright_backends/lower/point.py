"""The code of one point of a kernel's domain, or of `lanes` neighbouring points at once."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.errors import InternalError
from tilewright.ir.bounds import linear_terms
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, loads, substitute, variables
from tilewright.ir.ops import Combiner
from tilewright_backends.lower import types
from tilewright_backends.lower.code import Code
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, FlatStore
from tilewright_backends.lower.index import is_index, lower_index
from tilewright_backends.lower.lanes import LANE
from tilewright_backends.lower.memory import load_vector, store_vector
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import Prim


class Point:
    """Lowers the expressions of a specification where its axes have given values.

    Every load and operation is computed once and named in `code` where it is first needed, so a point must not outlive
    the scope that it was made in.

    Args:
        code: where statements go.
        spec: the specification.
        buffers: flat TIR buffer of each value, by name.
        at: value of each axis over the variables of `code`; `LANE` stands for the lane.
        semantics: the target's operators.
        lanes: number of points side by side.
        mask: which lanes are there (None: all); the others touch no memory.
        given: values of variables that are not axes (states, combiner arguments).
        loaded: values of reads that the caller has loaded already.
    """

    def __init__(
        self,
        code: Code,
        spec: FlatSpec,
        buffers: Mapping[str, Prim],
        at: Mapping[str, Expr],
        semantics: Semantics,
        *,
        lanes: int = 1,
        mask: Prim = None,
        given: Mapping[str, Prim] | None = None,
        loaded: Mapping[int, Prim] | None = None,
    ) -> None:
        self.code = code
        self.spec = spec
        self.buffers = buffers
        self.at = at
        self.semantics = semantics
        self.lanes = lanes
        self.mask = mask
        self._given = dict(given or {})
        self._loads: dict[int, Prim] = dict(loaded or {})
        self._values: dict[Expr, Prim] = {}

    def give(self, values: Mapping[str, Prim]) -> None:
        """Sets the values of variables that are not axes."""
        self._given.update(values)

    def value(self, expr: Expr) -> Prim:
        """The carried value of any expression of the specification."""
        found = self._values.get(expr)
        if found is None:
            found = self._values[expr] = self._lower(expr)
        return found

    def _lower(self, expr: Expr) -> Prim:
        if isinstance(expr, Const):
            return types.literal(expr.value, types.carrier(expr.dtype))
        if isinstance(expr, Load):
            return self.load(expr.slot)
        if isinstance(expr, Var):
            if expr.name in self._given:
                return self._given[expr.name]
            return types.convert(self.index(expr), expr.dtype)
        assert isinstance(expr, Apply)
        args = [self.value(x) for x in expr.args]
        given = expr.args[-1].dtype
        result = self.semantics.apply(expr.op, args, given, expr.dtype, self.code.bind)
        return self.code.bind(result)

    def load(self, slot: int) -> Prim:
        """The carried value of read `slot`."""
        found = self._loads.get(slot)
        if found is None:
            found = self._loads[slot] = self.code.bind(self.read(self.spec.reads[slot]), "v")
        return found

    def read(self, access: FlatAccess) -> Prim:
        """The carried value of an access."""
        address = self.placed(access.address)
        guard = None if access.guard is None else self.placed(access.guard)
        fill = access.fill.value if access.fill is not None else 0
        return load_vector(self, self.buffers[access.value.name], access.value.dtype, address, guard, fill)

    def store(self, store: FlatStore, value: Prim | None = None) -> None:
        """Stores `value`, or what the store's expression gives."""
        value = self.value(store.expr) if value is None else value
        guard = None if store.guard is None else self.placed(store.guard)
        stored = types.to_storage(value, store.value.dtype)
        store_vector(self, self.buffers[store.value.name], self.placed(store.address), guard, stored)

    def placed(self, expr: Expr) -> Expr:
        """An address or guard over the variables of `code`."""
        return self.code.simplify(substitute(expr, self.at))

    def index(self, expr: Expr, dtype: str = "") -> Prim:
        """An integer or boolean expression over axes, loads and variables of `code`, in index arithmetic."""
        expr = self.placed(expr)
        if not is_index(expr, self.code.bounds):
            return types.convert(self.value(expr), "bool" if expr.dtype == "bool" else dtype or "int64")
        used = {slot: self.load(slot) for slot in loads(expr)}
        return lower_index(expr, self.code.env, self.code.bounds, used, dtype)

    def varies(self, expr: Expr) -> bool:
        """Whether the lanes see different values of a placed expression."""
        if LANE in variables(expr):
            return True
        return any(types.lanes_of(self.load(slot)) > 1 for slot in loads(expr))

    def lane_stride(self, address: Expr) -> int | None:
        """How far neighbouring lanes are apart in memory; None when that is not the same for all."""
        stride = 0
        for factor, term in linear_terms(address):
            if isinstance(term, Var) and term.name == LANE:
                stride += factor
            elif self.varies(term):
                return None
        return stride


def combine(code: Code, semantics: Semantics, combiner: Combiner, left: list[Prim], right: list[Prim]) -> list[Prim]:
    """The merged states of a combiner, computed from all old ones."""
    given = {f"a{i}": x for i, x in enumerate(left)} | {f"b{i}": x for i, x in enumerate(right)}
    done: dict[Expr, Prim] = {}

    def visit(expr: Expr) -> Prim:
        found = done.get(expr)
        if found is None:
            found = done[expr] = lower(expr)
        return found

    def lower(expr: Expr) -> Prim:
        if isinstance(expr, Const):
            return types.literal(expr.value, types.carrier(expr.dtype))
        if isinstance(expr, Var):
            return given[expr.name]
        if not isinstance(expr, Apply):
            raise InternalError(f"combiner {combiner.name} reads memory: {expr!r}.")
        args = [visit(x) for x in expr.args]
        return code.bind(semantics.apply(expr.op, args, expr.args[-1].dtype, expr.dtype, code.bind))

    return [visit(x) for x in combiner.combine]
