"""`tilewright explain`."""

from __future__ import annotations

import json
from typing import Any

import click

from tilewright.artifact import Artifact, Fallen
from tilewright.cli.base import Command, threads_option
from tilewright.cli.options import compile_options, value_options
from tilewright.cli.output import Output, table


@click.command("explain", cls=Command)
@click.argument("file", metavar="FILE")
@click.option("--slot", help="Only the decisions of this slot.")
@click.option("--about", metavar="TEXT", help="Only decisions whose subject contains TEXT.")
@compile_options
@value_options
@threads_option
def command(output: Output, file: str, slot: str | None, about: str | None, **options: Any) -> None:
    """Show what each slot decided for FILE, an artifact or an ONNX model, and why."""
    decisions = [
        decision
        for decision in _decisions(output, file, **options)
        if slot in (None, decision["slot"]) and (about is None or about in decision["subject"])
    ]
    several = any("program" in decision for decision in decisions)
    rows = [
        [
            *([str(decision["program"])] if several else []),
            decision["slot"],
            decision["subject"],
            _brief(decision["chosen"]),
            _microseconds(decision["costs"]),
            str(len(decision["alternatives"])),
            decision["why"],
        ]
        for decision in decisions
    ]
    output.result(
        decisions,
        table(
            [*(["program"] if several else []), "slot", "about", "chosen", "cost", "others", "why"],
            rows,
            right=("cost", "others"),
        ),
    )


def _decisions(output: Output, file: str, **options: Any) -> list[dict[str, Any]]:
    from tilewright.cli.run import is_artifact

    if is_artifact(file):
        with Artifact(file) as artifact:
            return _records(artifact)
    from tilewright.cli.compile import compiled_artifact

    with output.progress(f"compiling {file}"):
        compiled, _ = compiled_artifact(file, **options)
    with compiled:
        return _records(compiled)


def _records(artifact: Artifact) -> list[dict[str, Any]]:
    """What falls back, and the decisions of every native program; each says which one, where there are several."""
    variants = artifact.manifest.variants
    fallen = [_fallen(node) for step in artifact.manifest.pipeline for node in step.nodes]
    if len(variants) == 1:
        return [*fallen, *artifact.decisions(variants[0])]
    programs = [
        {"program": number, **decision}
        for number, variant in enumerate(variants)
        for decision in artifact.decisions(variant)
    ]
    return [*({"program": "", **x} for x in fallen), *programs]


def _fallen(node: Fallen) -> dict[str, Any]:
    """A node that the reference evaluator runs, in the form of a decision."""
    why = f"{node.why} It holds {', '.join(node.inner)}." if node.inner else node.why
    return {
        "slot": "fallback",
        "subject": node.node,
        "chosen": "reference",
        "alternatives": [],
        "costs": [],
        "why": why,
    }


def _brief(chosen: Any) -> str:
    if isinstance(chosen, dict):
        return " ".join(f"{key}={_brief(value)}" for key, value in chosen.items())
    return chosen if isinstance(chosen, str) else json.dumps(chosen)


def _microseconds(costs: list[float | None]) -> str:
    return f"{costs[0] * 1e6:.1f} µs" if costs and costs[0] is not None else ""
