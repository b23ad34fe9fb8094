"""TVM's own log output: silent unless asked for, and nobody else's output is lost over it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

QUIET = """
    import logging, os, sys, threading
    import tvm
    from tvm.target import Target, codegen
    from tilewright_backends.tvm_log import forwarded

    def complain():
        codegen.llvm_get_cpu_features(Target({"kind": "llvm", "mcpu": "nosuchcpu"}))
        logging.getLogger("tvm.some.module").warning("from Python")
        os.write(2, b"somebody else's line\\n")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(QUIET) + textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_without_it_tvm_writes_to_stderr() -> None:
    said = run("complain()").stderr
    assert "mcpu=nosuchcpu" in said
    assert "from Python" in said


def test_it_is_silent_by_default() -> None:
    result = run("""
        with forwarded():
            complain()
        os.write(2, b"and after\\n")
    """)
    assert result.stderr == "somebody else's line\nand after\n"


def test_it_goes_through_logging() -> None:
    result = run("""
        logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
        logging.getLogger("tilewright").setLevel(logging.DEBUG)
        forwarded()(complain)()
    """)
    assert result.stderr == "somebody else's line\n"
    one, other = sorted(result.stdout.splitlines())
    assert one.startswith("tilewright.tvm DEBUG ")
    assert "Error: Using LLVM" in one
    assert other == "tilewright.tvm DEBUG warning: from Python"


def test_threads_and_errors_leave_stderr_as_it_was() -> None:
    result = run("""
        turn = threading.Lock()
        def work():
            try:
                with forwarded():
                    with turn: # TVM writes its lines in pieces: one in the midst of them is not to be told apart
                        complain()
                    raise KeyError
            except KeyError:
                pass
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os.write(2, b"after\\n")
        print(len(os.listdir("/proc/self/fd")))
        with forwarded():
            pass
        print(len(os.listdir("/proc/self/fd")))
    """)
    assert result.stderr == "somebody else's line\n" * 8 + "after\n"
    before, after = result.stdout.split()
    assert before == after
