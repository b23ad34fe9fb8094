"""Laws of groups and covers."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from tilewright.ir.bounds import Bounds
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Region, Routine, ScanOp, TensorOp, Value, bodies
from tilewright.ir.verify.laws import Place, show_value
from tilewright.ir.verify.module import check_routine
from tilewright.ir.verify.operators import check_scan, check_tensor

UNIQUE = "the items of a cover have names of their own, and a group has at least one operator"
COVERED = (
    "every operator of the region stands in some group, and a group without a trail holds the region's operators only"
)
NEEDED = "each value that is needed is produced: it is an output of an earlier group, or comes from outside"
ONCE = "each value is the output of one group"
CONVEX = "a cover is convex: no path between operators of a group leaves the group (the groups form no cycle)"
ORDERED = "groups stand in execution order, and so do the operators of a group"
OUTPUTS = "the outputs of a group are values that it makes, with the region's dtypes and shapes"
LEVELS = "a level is given, once, to a value that the group both makes and reads"
STREAM = "a stream is a reduce axis of at least two operators of the group"
BODIES = "a control operator carries the covers of its own regions"


def verify_cover(cover: Cover, symbols: Bounds | None = None, constants: Container[str] = ()) -> None:
    """Raises VerifyError, naming law and place, unless the cover keeps the laws of the second form.

    Args:
        symbols: bounds of the module's symbols, for operators that were rewritten.
        constants: names of constants that rewrites have added and that the region does not capture.
    """
    _cover(cover, symbols or {}, constants, Place("cover"))


def verify_group(group: Group, symbols: Bounds | None = None) -> None:
    """The laws of a group by itself."""
    check_group(group, symbols or {}, Place("group", (group.name,)))


def check_group(group: Group, symbols: Bounds, place: Place) -> None:
    """`verify_group` at a place inside another form."""
    _group(group, None, symbols, place)


def _cover(cover: Cover, symbols: Bounds, constants: Container[str], place: Place) -> None:
    names: set[str] = set()
    for item in cover.items:
        there = place.at(f"item {item.name}")
        if item.name in names:
            raise there.broken(UNIQUE, f"another item is called {item.name!r}")
        names.add(item.name)
        if isinstance(item, Group):
            _group(item, cover.region, symbols, place.at(f"group {item.name}"))
        else:
            regions = bodies(item.op)
            if tuple(x.region for x in item.bodies) != regions:
                raise there.broken(BODIES, f"{len(item.bodies)} covers for {len(regions)} regions, or of other regions")
            for number, body in enumerate(item.bodies):
                _cover(body, symbols, constants, there.at(f"body {number}"))
    _check_covered(cover, place)
    _check_flow(cover, constants, place)


def _group(group: Group, region: Region | None, symbols: Bounds, place: Place) -> None:
    if not group.ops:
        raise place.broken(UNIQUE, "it has no operator")
    known = set(region.ops) if region is not None else set()
    made: dict[str, Value] = {}
    later = {v.name: op.name for op in group.ops for v in op.outputs}
    for op in group.ops:
        there = place.at(f"operator {op.name}")
        for used in op.inputs:
            if used is not None and used.name in later and used.name not in made:
                raise there.broken(ORDERED, f"{used.name!r} is made later, by {later[used.name]!r}")
        made.update((x.name, x) for x in op.outputs)
        if op in known:
            continue
        if region is not None and not group.trail:
            raise there.broken(COVERED, "it is no operator of the region, and the group has no trail of rewrites")
        match op:
            case TensorOp():
                check_tensor(op, symbols, there)
            case ScanOp():
                check_scan(op, symbols, there)
            case Routine():
                check_routine(op, symbols, there)
    _check_outputs(group, made, region, place)
    read = {x.name for op in group.ops for x in op.inputs if x is not None}
    for number, (name, level) in enumerate(group.levels):
        repeated = any(name == other for other, _ in group.levels[:number])
        if repeated or name not in made or name not in read:
            found = "has two levels" if repeated else "is not made and read inside"
            raise place.broken(LEVELS, f"{name!r} ({level}) {found}")
    if group.stream:
        sharing = [x.name for x in group.ops if isinstance(x, TensorOp) and group.stream in {a.name for a in x.reduce}]
        if len(sharing) < 2:
            raise place.broken(STREAM, f"axis {group.stream!r} is reduced by {sharing}")


def _check_outputs(group: Group, made: Mapping[str, Value], region: Region | None, place: Place) -> None:
    wanted = {x.name: x for op in region.ops for x in op.outputs if x is not None} if region is not None else {}
    for output in group.outputs:
        if made.get(output.name) != output:
            raise place.broken(OUTPUTS, f"{output.name!r} is not made by it")
        if wanted.get(output.name, output) != output:
            raise place.broken(OUTPUTS, f"{output.name!r} is {show_value(output)}, not as in the region")


def _check_covered(cover: Cover, place: Place) -> None:
    """Every operator is in some item; one that a rewrite has replaced must not be needed any more (`_check_flow`)."""
    present = {op for x in cover.items for op in (x.ops if isinstance(x, Group) else (x.op,))}
    rewritten = any(isinstance(x, Group) and x.trail for x in cover.items)
    for op in cover.region.ops:
        if op not in present and not rewritten:
            raise place.at(f"operator {op.name}").broken(COVERED, "it stands in no group")


def _check_flow(cover: Cover, constants: Container[str], place: Place) -> None:
    available = {x.name for x in (*cover.region.params, *cover.region.captured)}
    producers: dict[str, str] = {}
    for item in cover.items:
        for output in _outputs(item):
            if output.name in producers:
                found = f"{output.name!r} is an output of {producers[output.name]!r} already"
                raise place.at(f"item {item.name}").broken(ONCE, found)
            producers[output.name] = item.name
    for item in cover.items:
        for used in item.inputs:
            if used.name not in available and used.name not in constants:
                raise _missing(cover.items, item, used, producers, place)
        available.update(x.name for x in _outputs(item))
    for result in cover.region.results:
        if result.name not in available and result.name not in constants:
            raise place.at("results").broken(NEEDED, f"{result.name!r} is an output of no group")


def _missing(
    items: Sequence[Group | ControlItem],
    item: Group | ControlItem,
    used: Value,
    producers: Mapping[str, str],
    place: Place,
) -> Exception:
    """Why an input of an item is not there: never made, made in a cycle, or only in the wrong order."""
    there = place.at(f"item {item.name}")
    if used.name not in producers:
        return there.broken(NEEDED, f"it reads {used.name!r}, which is an output of no group")
    by_name = {x.name: x for x in items}
    front, seen = [producers[used.name]], set()
    while front:
        name = front.pop()
        if name == item.name:
            found = f"it reads {used.name!r} of {producers[used.name]!r}, which depends on it in turn"
            return there.broken(CONVEX, found)
        if name not in seen:
            seen.add(name)
            front += [producers[x.name] for x in by_name[name].inputs if x.name in producers]
    return there.broken(ORDERED, f"it reads {used.name!r}, which {producers[used.name]!r} makes later")


def _outputs(item: Group | ControlItem) -> Iterable[Value]:
    return [x for x in item.outputs if x is not None]
