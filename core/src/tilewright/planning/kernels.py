"""The kernel table: equal groups with equal choices share one kernel, each with its own arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.errors import InternalError
from tilewright.ir.choice import Packing, TileChoice
from tilewright.ir.expr import loads, variables
from tilewright.ir.group import Group
from tilewright.ir.keys import Canonical, packing_key
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Access, Value
from tilewright.ir.program import Kernel, PackedConstant
from tilewright.views.kernel import KernelSpec
from tilewright.views.staged import StagedSpec
from tilewright.views.subject import Subject
from tilewright.views.symbols import group_symbols


class KernelTable:
    """Kernels by structural key and choice, and the packed constants that they read."""

    def __init__(self) -> None:
        self.kernels: dict[str, Kernel] = {}
        self.packed: dict[str, PackedConstant] = {}
        self._by_key: dict[tuple[object, ...], Kernel] = {}

    def bind(
        self,
        group: Group,
        subject: Callable[[], Subject | None],
        canonical: Canonical,
        choice: TileChoice,
        symbols: tuple[Symbol, ...] = (),
    ) -> tuple[Kernel, tuple[str, ...]]:
        """The kernel for a group and a choice, and the names of the group's values in the order of its parameters.

        Args:
            subject: what the group is for recipes, whose reads packings and slices number; asked where that matters.
        """
        nests = nests_of(subject()) if choice.packings else ()
        packed = [(p.slot, self._pack(nests, p)) for p in choice.packings]
        params = (*_read_as_they_are(nests, canonical, [slot for slot, _ in packed]), *(v for _, v in packed))
        params += canonical.outputs
        key = (canonical.key, choice.recipe, choice.params)
        kernel = self._by_key.get(key)
        if kernel is None:
            used = group_symbols(group, symbols)
            read = nests or nests_of(subject()) if choice.slices else ()
            sliced = tuple(params.index(_read(read, x.slot).value) for x in choice.slices)
            kernel = Kernel(self._name(group, choice), group, choice, params, tuple(packed), used, sliced)
            self._by_key[key] = kernel
            self.kernels[kernel.name] = kernel
        return kernel, tuple(v.name for v in params)

    def _name(self, group: Group, choice: TileChoice) -> str:
        """A symbol of letters, digits and underscores, without anything from the model's names but operator types."""
        types = (op.loc.op_type for op in group.ops)
        kinds = list(dict.fromkeys(x.lower() for x in types if x.isalnum() and x.isascii()))
        stem = "_".join(kinds[:4]) or "kernel"
        return f"{stem}_{len(self.kernels)}"

    def _pack(self, nests: Sequence[KernelSpec], packing: Packing) -> Value:
        number, slot = _place(nests, packing.slot)
        spec = nests[number]
        access = spec.reads[slot]
        # A constant that is equal along an axis may be laid out along it all the same.
        used = {*variables(*access.index, access.guard), *(name for name, _ in packing.axes)}
        axes = tuple(x for x in spec.axes if x.name in used)
        digest = packing_key(access, axes, packing)[:12]
        constant = PackedConstant(f"{access.value.name}.packed.{digest}", access, axes, packing)
        self.packed[constant.name] = constant
        return constant.value


def nests_of(subject: Subject | None) -> tuple[KernelSpec, ...]:
    """The loop nests that a subject has reads of: itself, or its stages; a packing numbers the reads of all of them."""
    if isinstance(subject, StagedSpec):
        return subject.stages
    return (subject,) if isinstance(subject, KernelSpec) else ()


def _place(nests: Sequence[KernelSpec], slot: int) -> tuple[int, int]:
    """The nest that has a read, and the read's slot there."""
    for number, spec in enumerate(nests):
        if slot < len(spec.reads):
            return number, slot
        slot -= len(spec.reads)
    raise InternalError(f"a packing names read {slot} beyond the kernel's reads.")


def _read(nests: Sequence[KernelSpec], slot: int) -> Access:
    number, own = _place(nests, slot)
    return nests[number].reads[own]


def _read_as_they_are(nests: Sequence[KernelSpec], canonical: Canonical, packed: Sequence[int]) -> tuple[Value, ...]:
    """The inputs that the code still reads in their own layout."""
    inputs: tuple[Value, ...] = canonical.inputs
    if not packed:
        return inputs
    apart = {_place(nests, slot) for slot in packed}
    needed: set[Value] = set()
    for number, spec in enumerate(nests):
        rest: list[Access] = [access for slot, access in enumerate(spec.reads) if (number, slot) not in apart]
        needed |= {access.value for access in rest} | {s.write.base for s in spec.stores if s.write.base is not None}
        # A packed access may sit inside the index of another one; packing is for plain operands only.
        inner = {(number, slot) for access in rest for slot in loads(*access.index, access.guard)}
        assert not inner & apart, "a packed operand cannot steer an index"
    return tuple(v for v in inputs if v in needed)
