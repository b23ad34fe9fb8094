"""The list of commands, and `--version`."""

from __future__ import annotations

import platform

import click

from tilewright.cli.base import LazyGroup

_COMMANDS = {
    "compile": ("tilewright.cli.compile:command", "Compile an ONNX model to an artifact."),
    "run": ("tilewright.cli.run:command", "Run an artifact or a model."),
    "compare": ("tilewright.cli.compare:command", "Compare a compiled model with a reference."),
    "check": ("tilewright.cli.check:command", "Say what would become of each node of a model."),
    "bench": ("tilewright.cli.bench:command", "Time models beside ONNX Runtime."),
    "inspect": ("tilewright.cli.inspect:command", "Show what is in an artifact, without loading code."),
    "explain": ("tilewright.cli.explain:command", "Show what each slot decided, and why."),
    "ablate": ("tilewright.cli.ablate:command", "Run a study: arms that differ in named factors."),
    "plugins": ("tilewright.cli.plugins:group", "List or check the installed plugins."),
    "scoreboard": ("tilewright.cli.scoreboard:command", "Run ONNX's own test suite."),
    "fuzz": ("tilewright.cli.fuzz:command", "Compare random graphs with ONNX's reference evaluator."),
    "calibrate": ("tilewright.cli.calibrate:command", "Measure a device for the models of cost."),
    "selfcheck": ("tilewright.cli.selfcheck:command", "Check what a target computes on this machine; one report."),
    "doctor": ("tilewright.cli.doctor:command", "Check the installation."),
    "cache": ("tilewright.cli.cache:group", "Show or clear the cache."),
    "completion": ("tilewright.cli.completion:command", "Print a script for shell completion."),
}


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from tilewright.cli.versions import version_text

    click.echo(version_text(platform.python_version()))
    ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Versions and plugins."
)
def cli() -> None:
    """Tilewright compiles ONNX models to native programs.

    A compiled model is native code, and loading it runs it: only run artifacts that you trust.

    Exit codes: 0 fine, 1 results differ, 2 something in the input, 3 internal error, 130 interrupted.
    """
