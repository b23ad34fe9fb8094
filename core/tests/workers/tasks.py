"""Tasks that the tests of workers run in other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilewright.errors import InputError
from tilewright.workers import run_tool, turn


def echo(argument: Any) -> Callable[[Any], Any]:
    sys.stdout.write("noise on stdout, which must not disturb the replies\n")
    variable = os.environ.get("VARIABLE_OF_THIS_TEST")
    return lambda request: {"argument": argument, "request": request, "pid": os.getpid(), "variable": variable}


def act(argument: Any) -> Callable[[Any], Any]:
    def handle(request: Any) -> Any:
        match request:
            case "input error":
                raise InputError("The file is wrong.", "Give another.")
            case "bug":
                raise ZeroDivisionError("oops")
            case "sleep":
                time.sleep(60)
            case "die":
                os.write(1, b"last words")
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                sys.exit(5)
            case {"tool": command}:
                run_tool(command)
            case "child":
                return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
            case {"allocate": size}:
                return len(b"x" * size)
        return None

    return handle


def meet(folder: str) -> Callable[[Any], Any]:
    """Answers once as many workers as the request says have got one."""

    def handle(number: int) -> int:
        Path(folder, str(os.getpid())).touch()
        while len(os.listdir(folder)) < number:  # noqa: PTH208 - how many
            time.sleep(0.01)
        return os.getpid()

    return handle


def hold(kind: str) -> Callable[[Any], Any]:
    """Holds a device from its first request to its end."""
    held = turn(kind, 60)
    return lambda request: held.__enter__()


def broken(argument: Any) -> Callable[[Any], Any]:
    raise InputError("It cannot start.", "Do something else.")
