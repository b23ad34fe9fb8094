"""Text of the third stored form: tile choices."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from tilewright.ir.choice import TileChoice
from tilewright.ir.text.exprs import print_expr
from tilewright.ir.text.names import quote


def print_choice(choice: TileChoice) -> str:
    """Recipe, parameters, resources (only those that are there), packings, slices and predicted cost."""
    return "\n".join(choice_lines(choice))


def choice_lines(choice: TileChoice) -> Iterator[str]:
    """`print_choice` line by line."""
    yield f"choice {quote(choice.recipe)} {{"
    yield f"  params {', '.join(f'{quote(name)} = {size}' for name, size in choice.params)}"
    resources = attrs.asdict(choice.resources)
    yield f"  resources {', '.join(f'{name} = {n}' for name, n in resources.items() if n)}"
    for packing in choice.packings:
        dims = ", ".join(f"{quote(name)} < {extent}" for name, extent in packing.dims)
        axes = ", ".join(f"{quote(name)} = {print_expr(e, 'int64')}" for name, e in packing.axes)
        yield f"  pack %{packing.slot} as ({dims}) at {axes}"
    for part in choice.slices:
        yield f"  slice %{part.slot} at {part.first} of {part.bytes} bytes to {part.end}"
    yield f"  cost {choice.cost!r} s{f'  # {quote(choice.why)}' if choice.why else ''}"
    yield "}"
