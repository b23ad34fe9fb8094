"""`tilewright completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tilewright.cli.app import cli
from tilewright.cli.base import Command
from tilewright.cli.output import Output


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(output: Output, shell: str) -> None:
    """Print the script that makes SHELL complete tilewright's commands and options.

    For bash: tilewright completion bash > ~/.local/share/bash-completion/completions/tilewright
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "tilewright", "_TILEWRIGHT_COMPLETE").source()
    output.result({"shell": shell, "script": script}, script)
