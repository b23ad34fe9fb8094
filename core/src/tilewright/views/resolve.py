"""Values of a staged group, whatever stages they pass through element by element: in terms of reads and reductions."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.bounds import Bounds, simplify
from tilewright.ir.expr import Expr, Load, Var, cast, const, loads, replace_loads, substitute
from tilewright.ir.ops import Access
from tilewright.views.maps import invert
from tilewright.views.staged import StagedSpec


class Resolver:
    """Expressions of stages in terms of reads from outside and of the states of reductions.

    Attributes:
        reads: from outside, by slot.
        states: of each state's variable, the points at which it is used.
        used: numbers of the stages that took part.
        failed: whether something was met that cannot be put in: a guarded read of what a stage makes, a map that is not
            one-to-one, a store that merges. Expressions are then of no use.
    """

    def __init__(self, staged: StagedSpec, bounds: Bounds) -> None:
        self.staged, self.bounds = staged, bounds
        self.reads: list[Access] = []
        self.states: dict[str, set[tuple[Expr, ...]]] = {}
        self.used: set[int] = set()
        self.failed = False
        self._makers = {s.write.value: (i, s) for i, x in enumerate(staged.stages) for s in x.stores}

    def of(self, number: int, expr: Expr, at: Mapping[str, Expr]) -> Expr:
        """An expression of a stage where its axes are `at`."""
        stage = self.staged.stages[number]
        self.used.add(number)
        found: dict[int, Expr] = {}

        def load(slot: int) -> None:
            if slot not in found:
                access = stage.reads[slot]
                for inner in sorted(loads(*access.index, access.guard)):
                    load(inner)
                index = tuple(self._placed(x, found, at) for x in access.index)
                guard = None if access.guard is None else self._placed(access.guard, found, at)
                found[slot] = self._read(Access(access.value, index, guard, access.fill))

        for slot in sorted(loads(expr)):
            load(slot)
        return self._placed(expr, found, at)

    def _placed(self, expr: Expr, found: Mapping[int, Expr], at: Mapping[str, Expr]) -> Expr:
        # Axes first: what is put in for loads has variables of its own.
        return simplify(replace_loads(substitute(expr, at), found), self.bounds)

    def _read(self, access: Access) -> Expr:
        maker = self._makers.get(access.value)
        if maker is None:
            if access not in self.reads:
                self.reads.append(access)
            return Load(self.reads.index(access), access.value.dtype)
        number, store = maker
        stage, write = self.staged.stages[number], store.write
        merges = write.base is not None or write.update is not None or write.guard is not None
        at = invert(stage.spatial, write.index, access.value.shape, access.index, self.bounds)
        if at is None or merges or access.guard is not None:
            self.failed = True
            return const(0, access.value.dtype)
        self.used.add(number)
        if stage.combiner is None:
            given: dict[str, Expr] = {f"s{i}": self.of(number, x, at) for i, x in enumerate(stage.body)}
        else:
            point = tuple(at[x.name] for x in stage.spatial)
            given = {f"s{i}": self._state(number, i, x.dtype, point) for i, x in enumerate(stage.body)}
        return cast(self.of(number, store.expr, {**at, **given}), access.value.dtype)

    def _state(self, number: int, state: int, dtype: str, point: tuple[Expr, ...]) -> Expr:
        name = state_name(number, state)
        self.states.setdefault(name, set()).add(point)
        return Var(name, dtype)


def state_name(number: int, state: int = 0) -> str:
    """Name of the variable that stands for a state of a stage."""
    return f"stage{number}.{state}"
