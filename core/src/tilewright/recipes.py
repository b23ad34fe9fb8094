"""Recipes: the contract between proposers and code.

A recipe says which kernels it can emit and, for a kernel that it matches, which parameters may be chosen, under which
constraints, and how much work and traffic a choice makes. All of it is symbolic over the parameters, so a proposer
needs to know no recipe in particular, and can evaluate thousands of choices at once. **A choice that meets the
constraints must compile**: a refusal is a backend's bug.

A back end registers each recipe under a name together with the emitter; nothing here knows about code generation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.errors import InternalError
from tilewright.ir.choice import Packing, Resources, Slice, TileChoice
from tilewright.ir.expr import Apply, Const, Expr, Var, const, substitute
from tilewright.views.kernel import KernelSpec
from tilewright.views.subject import Subject

Columns = Mapping[str, npt.NDArray[np.int64]]


@attrs.frozen
class Parameter:
    """One number that a proposer chooses.

    Args:
        name: for a tile size "<role>.<level>", such as "m.block" or "k.step"; otherwise "stages", "split", "unroll", …
        candidates: the values worth trying, ascending. Any value between them that `align` divides is legal too.
        align: legal values are multiples of this.
        role: the role of the match that it cuts, or "".
        level: memory level that the tile lives at ("register", "shared", "l1", "l2"), "block" when it is how a task is
            shared out, or "".
    """

    name: str
    candidates: tuple[int, ...]
    align: int = 1
    role: str = ""
    level: str = ""

    @property
    def var(self) -> Var:
        return Var(self.name)


@attrs.frozen
class Constraint:
    """`left <= right` over the parameters; `why` names what is limited."""

    left: Expr
    right: Expr
    why: str


@attrs.frozen
class Work:
    """What a kernel does under a choice, as integer expressions over the parameters.

    Args:
        flops: arithmetic operations of the whole kernel, padding waste included.
        traffic: bytes moved per memory level over the whole kernel ("dram", "l2", "shared", "l1"), waste included.
        efficiency: percent of the unit's peak that the inner loop can reach (latency, issue slots, edges).
        unit: which peak of the device model the flops run at ("fma", "fp32", "fp16.tensor", …).
        serial: steps that cannot overlap (barriers, dependent loads) per task.
    """

    flops: Expr
    traffic: Mapping[str, Expr]
    efficiency: Expr = attrs.field(factory=lambda: const(100))
    unit: str = "fma"
    serial: Expr = attrs.field(factory=lambda: const(0))


@attrs.frozen
class Operand:
    """A tensor that a kernel moves: what a tile of it occupies, and how its bytes lie in memory.

    Args:
        name: of the value.
        size: bytes of an element in memory.
        elements: different elements that the kernel touches.
        roles: roles that it varies with. A tile of it has as many elements as these roles' tiles have points together,
            and never more than `elements`.
        along: the role whose neighbouring points share the most memory lines, or "" when no address is linear in one.
        stride: elements from one such point to the next; 1 when they are neighbours.
        run: how many points along the role follow each other at that stride.
        outside: moved once per point of the result, outside of the reduction: a result, or an operand of the epilogue.
            Roles that nothing outside varies with are the ones reduced over.
        padding: elements that a staged tile leaves free behind each of its lines, so that lines start in other banks.
        shared: points of its roles that read the same element, because windows of neighbours overlap.
    """

    name: str
    size: int
    elements: int
    roles: tuple[str, ...]
    along: str = ""
    stride: int = 0
    run: int = 1
    outside: bool = False
    padding: int = 0
    shared: int = 1


@attrs.frozen
class Usage:
    """`Resources` as expressions over the parameters."""

    tasks: Expr
    threads: Expr = attrs.field(factory=lambda: const(1))
    registers: Expr = attrs.field(factory=lambda: const(0))
    shared_bytes: Expr = attrs.field(factory=lambda: const(0))
    barriers: Expr = attrs.field(factory=lambda: const(0))
    resident_bytes: Expr = attrs.field(factory=lambda: const(0))


def _no_packings(_: Mapping[str, int]) -> tuple[Packing, ...]:
    return ()


def _no_slices(_: Mapping[str, int]) -> tuple[Slice, ...]:
    return ()


@attrs.frozen
class Match:
    """A kernel as a recipe sees it.

    Args:
        recipe: name of the recipe.
        roles: role -> axes fused in it, outermost first ("m": ("oh", "ow")).
        extents: role -> number of points.
        parameters: what may be chosen.
        constraints: what a choice must meet; the recipe's own, the device's limits included.
        usage: what a task occupies.
        work: what the kernel does.
        operands: what the kernel moves.
        tiles: memory level -> role -> points of a tile there, nearest level first. A level is one of the device's, or
            "block" for what a task works on without staging it. A role that a level leaves out has one point.
        packings: given chosen parameters, the constant operands that are stored in another layout.
        slices: given chosen parameters, what tasks read of constants in pieces that a unit can keep near.
        count: the number of tasks by the values of the symbols, over the parameters and the symbols; None when no
            extent is symbolic. Everything else counts symbolic extents with their upper bounds.
        detail: anything the emitter wants to have found once (must be immutable).
    """

    recipe: str
    roles: Mapping[str, tuple[str, ...]]
    extents: Mapping[str, int]
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...]
    usage: Usage
    work: Work
    operands: tuple[Operand, ...] = ()
    tiles: Mapping[str, Mapping[str, Expr]] = attrs.field(factory=dict)
    packings: Callable[[Mapping[str, int]], tuple[Packing, ...]] = _no_packings
    slices: Callable[[Mapping[str, int]], tuple[Slice, ...]] = _no_slices
    count: Expr | None = None
    detail: Any = None

    @property
    def reduced(self) -> frozenset[str]:
        """The roles that are reduced over: those that nothing outside of the reduction varies with."""
        kept = {role for operand in self.operands if operand.outside for role in operand.roles}
        return frozenset(r for r, points in self.extents.items() if self.operands and points > 1 and r not in kept)

    def choice(self, params: Mapping[str, int], cost: float = 0.0, why: str = "") -> TileChoice:
        """The tile choice for chosen parameters. Raises InternalError when a constraint does not hold."""
        problem = self.refusal(params)
        if problem:
            raise InternalError(f"recipe {self.recipe} does not allow {dict(params)}: {problem}.")
        columns = {name: np.asarray([size], np.int64) for name, size in params.items()}
        resources = Resources(
            **{f.name: int(evaluate(getattr(self.usage, f.name), columns)[0]) for f in attrs.fields(Usage)}
        )
        ordered = {p.name: int(params[p.name]) for p in self.parameters}
        chosen = {name: const(size) for name, size in ordered.items()}
        count = None if self.count is None else substitute(self.count, chosen)
        packings, slices = self.packings(ordered), self.slices(ordered)
        return TileChoice(self.recipe, ordered, resources, packings, cost, why, count, slices)

    def refusal(self, params: Mapping[str, int]) -> str:
        """Why the parameters are not allowed, or ""."""
        for parameter in self.parameters:
            if parameter.name not in params:
                return f"parameter {parameter.name} is missing"
            if params[parameter.name] <= 0 or params[parameter.name] % parameter.align:
                return f"{parameter.name} = {params[parameter.name]} is not a multiple of {parameter.align}"
        columns = {name: np.asarray([size], np.int64) for name, size in params.items()}
        for constraint in self.constraints:
            left, right = evaluate(constraint.left, columns)[0], evaluate(constraint.right, columns)[0]
            if left > right:
                return f"{constraint.why}: {left} > {right}"
        return ""

    def allowed(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Which rows of an array of choices meet the constraints."""
        rows = len(next(iter(columns.values()))) if columns else 1
        good = np.ones(rows, np.bool_)
        done: dict[Expr, npt.NDArray[Any]] = {}
        for constraint in self.constraints:
            good &= evaluate(constraint.left, columns, rows, done) <= evaluate(constraint.right, columns, rows, done)
            if not good.any():
                break
        return good


@attrs.frozen
class Recipe:
    """A named way to emit a kernel.

    Args:
        name: "<target>.<what>", for example "cpu.packed_contraction".
        target: kind of target that it is for ("cpu", "cuda", "rocm").
        match: finds the recipe's roles in a kernel, or None when the kernel is not of its kind. It is asked about
            subjects of the type `takes` only.
        embeddable: whether its code can be a member of a kernel that has others too (the device function contract). One
            that is not is launched alone.
        priority: recipes are tried in descending priority; the first that matches, and all later ones whose
            priority is at least 0, propose choices. A negative one is a fallback, used only when nothing else matches.
        takes: `KernelSpec`, `StagedSpec`, `ScanOp` or `Routine`.
    """

    name: str
    target: str
    match: Callable[[Any, DeviceModel], Match | None]
    embeddable: bool = True
    priority: int = 0
    takes: type[Subject] = KernelSpec

    def see(self, subject: Subject, device: DeviceModel) -> Match | None:
        """The subject as this recipe sees it, or None when it is not of its kind."""
        return self.match(subject, device) if isinstance(subject, self.takes) else None


_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floordiv": np.floor_divide,
    "floormod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
    "neg": np.negative,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "select": np.where,
}


def evaluate(
    expr: Expr, columns: Columns, rows: int | None = None, done: dict[Expr, npt.NDArray[Any]] | None = None
) -> npt.NDArray[np.int64]:
    """The values of a formula for every row of an array of parameter choices.

    Args:
        done: what is known of the same rows, and comes to be.
    """
    count = rows if rows is not None else len(next(iter(columns.values()))) if columns else 1
    done = {} if done is None else done

    def visit(node: Expr) -> npt.NDArray[Any]:
        found = done.get(node)
        if found is None:
            if isinstance(node, Const):
                found = np.full(count, node.value)
            elif isinstance(node, Var):
                found = columns[node.name]
            elif isinstance(node, Apply):
                found = _NUMPY[node.op](*(visit(x) for x in node.args))
            else:
                raise InternalError(f"a recipe's formula may use parameters and literals only, found {node!r}.")
            done[node] = found
        return found

    return visit(expr)


def product(factors: Sequence[Expr | int]) -> Expr:
    """The product of integer factors."""
    total: Expr = const(1)
    for factor in factors:
        total = total * factor
    return total
