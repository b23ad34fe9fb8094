"""`tilewright check`."""

from __future__ import annotations

from typing import Any

import attrs
import click

from tilewright.cli.base import Command
from tilewright.cli.options import compile_options, model_argument, opened_model, value_options
from tilewright.cli.output import Output, table
from tilewright.cli.tensors import read_arrays


@click.command("check", cls=Command)
@model_argument
@compile_options
@value_options
def command(output: Output, model: str, **options: Any) -> int:
    """Say what would become of each node of MODEL, before compiling it.

    native: compiled. constant: computed while compiling. specialised: compiled when a run knows the shapes or values
    named. reference: only ONNX's reference evaluator runs it, which --fallback reference allows. unsupported: nothing
    runs it.

    Exit with 1 if a node is unsupported, or would be run as the options and the configuration do not allow.
    """
    from tilewright.api import settings_for
    from tilewright.check import WHERE, check_model
    from tilewright.frontend.asked import combinations
    from tilewright.frontend.source import read

    settings = settings_for(options["target"], options["config"], options["fallback"], strict=options["strict"])
    with opened_model(model) as path:
        source = read(path)
        bind = read_arrays(options["bound"], "--bind")
        report = check_model(source, settings, combinations(source.inputs, options["shapes"]), bind)
    allowed = report.is_allowed(settings.config.fallback, jit=not options["no_jit"])
    counts = report.counts()
    output.result(
        {
            "allowed": allowed,
            "operators": counts,
            "nodes": [attrs.asdict(x) for x in report.nodes],
            "unsized": report.unsized,
        },
        table(
            ["operator", "nodes", *WHERE],
            [[name, sum(row.values()), *(row[x] or "" for x in WHERE)] for name, row in counts.items()],
            right=("nodes", *WHERE),
        ),
    )
    if not output.json_mode:
        rows = [[x.node, x.operator, x.where, x.why, ", ".join(x.inner)] for x in report.nodes if x.why]
        if rows:
            columns = ["node", "operator", "where", "why"] + ["with"] * any(row[-1] for row in rows)
            output.result(None, "")
            output.result(None, table(columns, [row[: len(columns)] for row in rows]))
        for name, text in report.unsized.items():
            output.note(f"Input {name!r} ({text}) has no fixed shape: --shape {name}=… is needed to compile the model.")
    return 0 if allowed else 1
