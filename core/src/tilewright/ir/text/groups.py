"""Text of the second stored form: groups and covers."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Call, If, Loop
from tilewright.ir.text.names import names, quote
from tilewright.ir.text.ops import declaration, if_head, indent, loop_head, op_lines


def print_group(group: Group) -> str:
    """The group's inputs, its operators, the level of each inner edge and its outputs."""
    return "\n".join(group_lines(group))


def print_cover(cover: Cover) -> str:
    """The groups of a region in execution order, those of nested bodies inside their operator."""
    return "\n".join(_cover_lines(cover, "cover")) + "\n"


def group_lines(group: Group) -> Iterator[str]:
    """`print_group` line by line."""
    yield f"group {quote(group.name)} ({', '.join(map(declaration, group.inputs))}) {{"
    if group.trail:
        yield f"  trail {names(group.trail)}"
    if group.stream:
        yield f"  stream {quote(group.stream)}"
    for name, level in group.levels:
        yield f"  {level} {quote(name)}"
    for op in group.ops:
        yield from indent(op_lines(op))
    yield f"  return ({names(x.name for x in group.outputs)})"
    yield "}"


def _cover_lines(cover: Cover, head: str) -> Iterator[str]:
    yield f"{head} ({', '.join(map(declaration, cover.region.params))}) {{"
    for item in cover.items:
        yield from indent(group_lines(item) if isinstance(item, Group) else _control_lines(item))
    yield f"  return ({names(x.name for x in cover.region.results)})"
    yield "}"


def _control_lines(item: ControlItem) -> Iterator[str]:
    op = item.op
    if isinstance(op, Call):
        yield from op_lines(op)
        return
    yield f"{loop_head(op) if isinstance(op, Loop) else if_head(op)} {{"
    heads = ("then", "else") if isinstance(op, If) else ("body",)
    for head, body in zip(heads, item.bodies, strict=True):
        yield from indent(_cover_lines(body, head))
    yield "}"
