"""CPU programs run on threads of our own: of the asked number, few, and in nobody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm_ffi
from onnx import TensorProto, helper

import tilewright
from tilewright.artifact import Artifact
from tilewright.runtime.executable import Executable
from tilewright_backends import runners
from tilewright_backends.load import load_cpu

X = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)
SUMS = X.sum(axis=1, dtype=np.float64)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = the sum of each row, which all threads compute together."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    out = tmp_path_factory.mktemp("runners") / "rows.tw"
    with tilewright.compile(model, target="cpu", threads=2) as program:
        program.save(out)
    return out


def agrees(program: Executable) -> bool:
    return bool(np.allclose(program.run(None, {"x": X})[0], SUMS, rtol=1e-5, atol=1e-4))


def threads_here() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def python(script: str, *arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)


def test_callers_do_not_add_threads(path: Path) -> None:
    with tilewright.load(path, threads=3) as program:
        assert agrees(program)
        before = threads_here()
        right: list[bool] = []
        for together in (1, 12):
            callers = [threading.Thread(target=lambda: right.append(agrees(program))) for _ in range(12)]
            for begin in range(0, 12, together):
                for caller in callers[begin : begin + together]:
                    caller.start()
                for caller in callers[begin : begin + together]:
                    caller.join()
        assert right == [True] * 24
        until = time.monotonic() + 5
        while threads_here() > before and time.monotonic() < until:
            time.sleep(0.01)  # a thread is joined a moment before it is gone
        assert threads_here() == before


def test_each_program_has_the_number_of_threads_that_it_was_loaded_with(path: Path) -> None:
    script = (
        "import os, sys, numpy, tilewright\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "environment, affinity = dict(os.environ), os.sched_getaffinity(0)\n"
        "x, before = {'x': numpy.ones((64, 300), numpy.float32)}, count()\n"
        "programs = {n: tilewright.load(sys.argv[1], threads=n) for n in (1, 2, 5)}\n"
        "for n, program in programs.items():\n"
        "    for _ in range(3):\n"
        "        assert (program.run(None, x)[0] == 300).all()\n"
        "    print(n, count() - before)\n"
        "    before = count()\n"
        "assert dict(os.environ) == environment\n"
        "own = [os.sched_getaffinity(int(x)) for x in os.listdir('/proc/self/task')]\n"
        "print([x for x in sorted(map(sorted, own)) if set(x) != affinity])\n"
        "print(len(affinity), os.sched_getaffinity(0) == affinity)\n"
    )
    result = python(script, path)
    assert result.returncode == 0, result.stderr
    # a runner is one of the threads, so n of them are new
    *counts, own, rest = result.stdout.split("\n")[:-1]
    assert counts == ["1 1", "2 2", "5 5"]
    assert rest.endswith(" True")
    # the two that are as many as the processors have one each
    processors = sorted(os.sched_getaffinity(0))[:2]
    assert own == (str([[x] for x in processors]) if len(processors) == 2 else "[]")
    assert result.stderr == ""


def test_workers_sleep_when_nothing_is_to_do(path: Path) -> None:
    """TVM's own would look for work for a fifth of a second of a processor."""
    script = (
        "import sys, time, numpy, tilewright\n"
        "program, x = tilewright.load(sys.argv[1], threads=2), {'x': numpy.ones((64, 300), numpy.float32)}\n"
        "for _ in range(20):\n"
        "    program.run(None, x)\n"
        "before = time.process_time()\n"
        "time.sleep(2)\n"
        "print(time.process_time() - before)\n"
    )
    result = python(script, path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.1


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_parallel_loop_gets_all_threads_of_the_pool(threads: int) -> None:
    workers = tvm_ffi.get_global_func("runtime.NumThreads")
    assert runners.call(threads, lambda: workers()) == threads


def test_programs_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2)
    callers = [threading.Thread(target=lambda: runners.call(1, lambda: meeting.wait(20))) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not meeting.broken


def test_an_error_reaches_the_caller_and_the_runner_goes_on() -> None:
    def fail() -> None:
        raise ValueError("from the runner")

    before = runners.call(1, threading.get_ident)
    with pytest.raises(ValueError, match="from the runner"):
        runners.call(1, fail)
    assert runners.call(1, threading.get_ident) == before


def test_nothing_of_a_call_is_kept(path: Path) -> None:
    import gc
    import weakref

    with tilewright.load(path, threads=1) as program:
        x = np.array(X)
        alive = weakref.ref(x)
        program.run(None, {"x": x})
        del x
        gc.collect()
        assert alive() is None


def test_an_interrupt_ends_the_waiting_and_the_next_run_is_right(path: Path) -> None:
    def interrupt() -> None:
        while not runners._busy:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    with Artifact(path) as artifact:
        (variant,) = artifact.manifest.variants
        with artifact.library(variant) as library:
            native = load_cpu(library, {}, variant.data, target=artifact.manifest.target, threads=2)
    sums = np.zeros(64, np.float32)
    native.run([X], [sums])
    killer = threading.Thread(target=interrupt)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        native.measure(1_000_000)
    assert runners._busy
    killer.join()
    again = np.zeros(64, np.float32)
    native.run([X], [again])
    native.close()
    assert not runners._busy
    for found in (sums, again):
        np.testing.assert_allclose(found, SUMS, rtol=1e-5, atol=1e-4)


ENDLESS = """
import sys, threading, os, time, signal
from tilewright.cli.app import cli
from tilewright.cli.base import run
from tilewright_backends import runners
def interrupt():
    while not runners._busy:
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
sys.exit(run(cli, sys.argv[1:]))
"""


def test_ctrl_c_ends_a_command_whose_program_does_not_end(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["s", "s"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)],
        "endless",
        [
            helper.make_tensor_value_info("trips", TensorProto.INT64, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "endless.onnx")
    np.save(tmp_path / "trips.npy", np.array(1 << 60))
    result = python(ENDLESS, "run", tmp_path / "endless.onnx", "--input", f"trips={tmp_path / 'trips.npy'}")
    assert (result.returncode, result.stderr.strip()) == (130, "interrupted")


def test_a_forked_process_can_run_what_its_parent_loaded(path: Path) -> None:
    script = (
        "import os, signal, sys, numpy, tilewright\n"
        "x = {'x': numpy.ones((64, 300), numpy.float32)}\n"
        "program = tilewright.load(sys.argv[1], threads=2)\n"
        "assert (program.run(None, x)[0] == 300).all()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    sys.exit(0 if (program.run(None, x)[0] == 300).all() else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert (program.run(None, x)[0] == 300).all()\n"
    )
    result = python(script, path)
    assert (result.returncode, result.stderr) == (0, "")
