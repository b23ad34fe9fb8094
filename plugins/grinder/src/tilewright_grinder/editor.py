"""What the rewrites of a module share: names that are free, new constants and operators, and what was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import numpy as np

from tilewright.device import DeviceModel
from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.names import Names
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const
from tilewright.ir.module import Constant, Function, Module
from tilewright.ir.ops import Location, Loop, Op, Region, Value, bodies
from tilewright.rewrites.calls import defined
from tilewright.rewrites.rename import region_with_values, with_op_names, with_values
from tilewright_grinder.options import GrinderOptions

Change = Callable[[Region, "Editor"], Region]


class Notes:
    """What was decided about each loop, branch and function, in order, for the decision record."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[str, str]]] = {}

    def add(self, subject: str, chosen: str, why: str) -> None:
        """Adds what was chosen and why."""
        entries = self.found.setdefault(subject, [])
        if (chosen, why) not in entries:
            entries.append((chosen, why))


class Editor:
    """State of one rewriting of a module.

    Attributes:
        ranges: the numbers that a scalar may be, by its name: the numbers of trips of loops whose count is known.
    """

    def __init__(self, module: Module, options: GrinderOptions, device: DeviceModel, notes: Notes) -> None:
        self.notes = notes
        self.options = options
        self.device = device
        names = Names()
        for name in (*(x.name for x in module.symbols), *module.constants):
            names.reserve(name)
        self.ranges: dict[str, Interval] = {}
        for function in module.functions.values():
            for value in defined(function.body):
                names.reserve(value.name)
            for op in operators(function.body):
                names.reserve(op.name)
                if isinstance(op, Loop):
                    self.know_trips(op)
        self.builder = Builder(names, dict(module.constants), {x.name: x.interval for x in module.symbols})
        self._scalars: dict[int, Value] = {}
        self._true: Value | None = None

    def know_trips(self, loop: Loop) -> None:
        """Takes down the range of the number of a loop's trip."""
        if isinstance(loop.count, Const) and int(loop.count.value) > 0:
            self.ranges[loop.body.params[0].name] = Interval(0, int(loop.count.value) - 1)

    @property
    def constants(self) -> Mapping[str, Constant]:
        """The module's constants and those that were added."""
        return self.builder.constants

    # New values and operators.

    def fresh(self, like: Value) -> Value:
        """A value like another one, under a name of its own."""
        return attrs.evolve(like, name=self.builder.names.fresh(like.name))

    def tensor(self, of: Value) -> Tensor:
        """The handle by which operators under construction read a value."""
        return self.builder.tensor(of)

    def number(self, given: int) -> Value:
        """A constant int64 scalar."""
        if given not in self._scalars:
            self.builder.hint = "trip"
            self._scalars[given] = self.builder.constant(np.asarray(given, np.int64), str(given)).value
        return self._scalars[given]

    @property
    def true(self) -> Value:
        """The constant that stands for the condition of a loop inside a trip."""
        if self._true is None:
            self.builder.hint = "going"
            self._true = self.builder.constant(np.asarray(True)).value
        return self._true

    @contextmanager
    def building(self, hint: str, loc: Location) -> Iterator[list[Op]]:
        """What the builder makes meanwhile goes into the list."""
        ops: list[Op] = []
        outside, self.builder.ops = self.builder.ops, ops
        self.builder.hint, self.builder.loc = hint, loc
        try:
            yield ops
        finally:
            self.builder.ops = outside

    def copy(self, region: Region, args: Sequence[Value]) -> tuple[list[Op], list[Value]]:
        """The operators of a region under names of their own, with values for its parameters; and its results."""
        stands = dict(zip((x.name for x in region.params), args, strict=True))
        for value in defined(region):
            if value.name not in stands:
                stands[value.name] = self.fresh(value)
                if value.name in self.ranges:
                    self.ranges[stands[value.name].name] = self.ranges[value.name]
        made = region_with_values(attrs.evolve(region, params=()), lambda x: stands.get(x.name, x))
        made = with_op_names(made, lambda op: next(x.name for x in op.outputs if x is not None))
        return list(made.ops), list(made.results)

    def note(self, subject: str, chosen: str, why: str) -> None:
        """Takes down what became of a loop, a branch or a function."""
        self.notes.add(subject, chosen, why)


def operators(region: Region) -> Iterator[Op]:
    """Every operator of a region and of the regions inside it."""
    for op in region.ops:
        yield op
        for inner in bodies(op):
            yield from operators(inner)


def count(region: Region) -> int:
    """How many operators there are in a region and inside it."""
    return sum(1 for _ in operators(region))


def everywhere(module: Module, change: Change, editor: Editor) -> Module:
    """The module with every region changed, inner ones first."""

    def visit(region: Region) -> Region:
        ops = tuple(with_values(op, lambda x: x, visit) if bodies(op) else op for op in region.ops)
        return change(attrs.evolve(region, ops=ops), editor)

    functions = {name: Function(name, visit(f.body)) for name, f in module.functions.items()}
    return attrs.evolve(module, functions=functions, constants=editor.constants)


@attrs.define
class Replacing:
    """A region under reconstruction: operators are taken over or replaced, and later ones read what replaces them."""

    ops: list[Op] = attrs.field(factory=list)
    stands: dict[str, Value] = attrs.field(factory=dict)

    def of(self, value: Value) -> Value:
        """What stands for a value."""
        return self.stands.get(value.name, value)

    def current(self, op: Op) -> Op:
        """An operator of the old region as it reads now."""
        return with_values(op, self.of) if self.stands else op

    def keep(self, op: Op) -> None:
        self.ops.append(op)

    def replace(self, op: Op, ops: Sequence[Op], outputs: Sequence[Value]) -> None:
        """Other operators in the place of one; `outputs` stand for its outputs."""
        self.ops += ops
        for old, new in zip(op.outputs, outputs, strict=True):
            if old is not None:
                self.stands[old.name] = new

    def region(self, old: Region) -> Region:
        """The new region."""
        return Region(old.params, tuple(self.ops), tuple(map(self.of, old.results)))


def is_certain(loop: Loop) -> bool:
    """Whether a loop makes exactly as many trips as its count or trip count says."""
    return loop.condition is None and loop.body.results[0] == loop.body.params[1]


def known_trips(loop: Loop) -> int | None:
    """The number of trips of a loop for which it is known at compile time."""
    return int(loop.count.value) if is_certain(loop) and isinstance(loop.count, Const) else None
