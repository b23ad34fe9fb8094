"""What all commands share: lazy loading, the common options, and how errors become exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any

import click

from tilewright import log
from tilewright.cli.output import Output, harmless
from tilewright.errors import TilewrightError

EXIT_INPUT = 2
EXIT_INTERNAL = 3
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used: `name -> (module:attribute, one line
    of help)`.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were declared."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


class Session:
    """What the process of the command line knows: whether to show tracebacks, and whether it was interrupted."""

    debug = False
    interrupted = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """What Ctrl-C does: an exception, so that workers are ended and partial files removed."""
        self.interrupted = True
        raise KeyboardInterrupt


class Command(click.Command):
    """A command with the common options; its function is called with an `Output` first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["-v", "--verbose"], count=True, help="Say more on stderr; -vv says everything."),
            click.Option(["-q", "--quiet"], is_flag=True, help="Only errors on stderr."),
            click.Option(["--json", "json_mode"], is_flag=True, help="Print the result as JSON."),
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Takes the common options off and calls the command's function."""
        verbosity = -1 if ctx.params.pop("quiet") else ctx.params["verbose"]
        ctx.params.pop("verbose")
        ctx.find_object(Session).debug = ctx.params.pop("debug")  # type: ignore[union-attr]
        output = Output(ctx.params.pop("json_mode"), quiet=verbosity < 0)
        assert self.callback is not None
        with log.shown(verbosity, _Handler(output)):
            return ctx.invoke(self.callback, output, **ctx.params)


class _Handler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.note(f"{record.levelname.lower()}: {record.getMessage()}")


def threads_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--threads`. The processes that a command starts find it in the environment."""

    def chosen(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
        if value is not None:
            os.environ["TILEWRIGHT_NUM_THREADS"] = str(value)
        return value

    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        callback=chosen,
        help="Worker threads to run with, and to plan for on a CPU "
        "[default: TILEWRIGHT_NUM_THREADS, or the processors this process may use].",
    )(function)


def run(group: click.Group, arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0 fine, 1 mismatch, 2 input, 3 internal, 130
    interrupted. Sets the process's handlers of SIGINT and SIGTERM.
    """
    session = Session()
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, session.interrupt)
    try:
        result = group.main(args=arguments, prog_name="tilewright", standalone_mode=False, obj=session)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort of the process
        # A library may have turned the interrupt into an error of its own.
        if session.interrupted or isinstance(error, click.Abort | KeyboardInterrupt):
            _complain("interrupted")
            return EXIT_INTERRUPTED
        return _report(error, session.debug)


def _report(error: BaseException, debug: bool) -> int:
    """Says on stderr what went wrong, with the traceback if `debug` is set; returns the exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        return EXIT_INPUT
    if debug:
        traceback.print_exception(error)
    if isinstance(error, TilewrightError):
        _complain(f"error: {error.message}", error.remedy)
        return error.exit_code
    _complain(
        f"internal error: {type(error).__name__}: {error}",
        "This is a fault in Tilewright or a plugin. Run the command again with --debug and report it.",
    )
    return EXIT_INTERNAL


def _terminated(number: int, frame: FrameType | None) -> None:
    # As an exception, so that workers are ended and partial files removed.
    raise SystemExit(128 + number)


def _complain(message: str, remedy: str = "") -> None:
    for text in (message, remedy):
        if text:
            sys.stderr.write(harmless(text) + "\n")
