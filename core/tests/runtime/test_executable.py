"""The checks around a program. The program itself is a stand-in here; real ones are tested end to end."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.artifact import ArtifactError, Manifest, Step, TensorInfo, Variant, write_artifact
from tilewright.errors import InputError
from tilewright.plugins import Backend, hookimpl
from tilewright.plugins.discovery import Discovery, PluginInfo
from tilewright.plugins.errors import PluginError, UnknownNameError
from tilewright.plugins.manager import Registry
from tilewright.runtime.executable import Executable, load
from tilewright.runtime.native import NO_SYMBOLS, Array, Weight
from tilewright.runtime.random_feeds import random_feeds
from tilewright.threads import thread_count

DECISION = {"slot": "connect", "subject": "m", "chosen": "all", "alternatives": [], "costs": [], "why": ""}


class Doubler:
    """y = 2·x, count = sum(k); slow on demand, and it notices two calls at once."""

    def __init__(self, library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], threads: int) -> None:
        self.library_bytes = library.read_bytes()
        self.factor = weights["factor"]
        self.threads = threads
        self.busy = 0
        self.overlapped = False
        self.closed = 0
        self.input_bytes = (5 * 3 * 4, 8)
        self.output_bytes = (5 * 3 * 4, 8)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], symbols: Mapping[str, int] = NO_SYMBOLS) -> None:
        self.busy += 1
        self.overlapped |= self.busy > 1
        time.sleep(0.01)
        np.multiply(inputs[0], self.factor, out=outputs[0])
        outputs[1][...] = inputs[1].sum()
        self.busy -= 1

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`made.load()` gives an executable; `made.native` is the stand-in behind it."""
    state = types.SimpleNamespace()

    def loader(library: Path, weights: Any, data: Any, *, target: str, threads: int) -> Doubler:
        state.native = Doubler(library, weights, data, threads)
        return state.native

    module = types.ModuleType("doubler_plugin")
    module.TILEWRIGHT_API = 1  # type: ignore[attr-defined]

    @hookimpl
    def tilewright_backends() -> list[Backend]:
        return [Backend("double", loader, loader, dict)]

    module.tilewright_backends = tilewright_backends  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "doubler_plugin", module)
    registry = Registry(Discovery((PluginInfo("doubler", "doubler", "1", "doubler_plugin"),), ()))
    state.path = tmp_path / "m.tw"
    (tmp_path / "lib.so").write_bytes(b"library bytes")
    inputs = (TensorInfo("x", "float32", ("n", 3)), TensorInfo("k/0", "int64", ()))
    outputs = (TensorInfo("y", "float32", ("n", 3)), TensorInfo("count", "int64", ()))
    variant = Variant("library.so", "decisions.json", inputs, outputs, {"n": (0, 5)}, {"factor": "stored"})
    step = Step("native", ("x", "k/0"), ("y", "count"), (variant,))
    factor = np.array(2, np.float32)
    write_artifact(
        state.path,
        Manifest("0", "m", "double:x", "doubler", inputs, outputs, (step,)),
        {"library.so": tmp_path / "lib.so"},
        [Weight("stored", "float32", (), lambda: factor)],
        decisions={"decisions.json": [DECISION]},
    )
    state.load = lambda **options: load(state.path, registry=registry, **options)
    return state


def feeds(n: int = 2) -> dict[str, Array]:
    return {"x": np.arange(3 * n, dtype=np.float32).reshape(n, 3), "k/0": np.array(7, np.int64)}


def test_run_follows_onnx_runtimes_form(made: Any) -> None:
    program: Executable = made.load(threads=3)
    y, count = program.run(None, feeds())
    np.testing.assert_array_equal(y, feeds()["x"] * 2)
    assert y.dtype == np.float32
    assert count.shape == ()
    assert count == 7
    count, y = program.run(["count", "y"], feeds())
    assert (y.shape, count.shape) == ((2, 3), ())
    assert made.native.threads == 3
    assert made.native.library_bytes == b"library bytes"


def test_what_it_says_about_itself(made: Any) -> None:
    program: Executable = made.load()
    assert [str(i) for i in program.inputs] == ["float32[n, 3]", "int64[]"]
    assert [o.name for o in program.outputs] == ["y", "count"]
    assert program.target == "double:x"
    assert program.decisions == [DECISION]


def test_outputs_are_fresh_and_aligned(made: Any) -> None:
    program: Executable = made.load()
    first, second = program.run(["y"], feeds())[0], program.run(["y"], feeds())[0]
    assert not np.shares_memory(first, second)
    assert first.ctypes.data % 64 == 0


def test_dlpack_in_and_out(made: Any) -> None:
    class Tensor:
        """What any library's tensor looks like through DLPack."""

        def __init__(self, array: Array, device: int = 1) -> None:
            self.array, self.device = array, device

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (self.device, 0)

    program: Executable = made.load()
    given = feeds()
    (y,) = program.run(["y"], {**given, "x": Tensor(given["x"])})
    np.testing.assert_array_equal(np.from_dlpack(y), given["x"] * 2)
    with pytest.raises(InputError, match=r"memory of a device.*host"):
        program.run(None, {**given, "x": Tensor(given["x"], device=2)})


def test_an_array_that_is_not_contiguous_is_read_right(made: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T[:2]
    (y,) = made.load().run(["y"], {**feeds(), "x": x})
    np.testing.assert_array_equal(y, x * 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, ["input 'x'", "none was given"]),
        ({"X": np.zeros(1)}, ["no input named 'X'", "Did you mean 'x'?"]),
        ({"zzz": np.zeros(1)}, ["'zzz'", "'x', 'k/0'"]),
        ({"x": np.zeros((2, 3))}, ["'x'", "float32", "float64"]),
        ({"x": np.zeros((2, 3, 1), np.float32)}, ["'x'", "float32[n, 3]", "[2, 3, 1]", "2 dimensions"]),
        ({"x": np.zeros((2, 4), np.float32)}, ["dimension 1 must be 3", "--shape"]),
        ({"x": np.zeros((6, 3), np.float32)}, ["'n'", "0 to 5"]),
        ({"x": [[1.0, 2.0, 3.0]]}, ["NumPy array", "list", "numpy.asarray"]),
        ({"k/0": 7}, ["'k/0'", "int"]),
    ],
)
def test_wrong_feeds_are_named(made: Any, change: dict[str, Any], words: list[str]) -> None:
    given = {name: array for name, array in {**feeds(), **change}.items() if array is not None}
    with pytest.raises(InputError) as caught:
        made.load().run(None, given)
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_output_name_is_named(made: Any) -> None:
    with pytest.raises(InputError, match=r"no output named 'cout'. Did you mean 'count'\?"):
        made.load().run(["cout"], feeds())


def test_calls_from_several_threads_take_turns(made: Any) -> None:
    program: Executable = made.load()
    results: dict[int, Array] = {}

    def call(n: int) -> None:
        results[n] = program.run(["y"], feeds(n))[0]

    threads = [threading.Thread(target=call, args=(n,)) for n in (1, 2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not made.native.overlapped
    for n, y in results.items():
        np.testing.assert_array_equal(y, feeds(n)["x"] * 2)


def test_save_and_load(made: Any, tmp_path: Path) -> None:
    program: Executable = made.load()
    program.save(tmp_path / "copy.tw")
    assert (tmp_path / "copy.tw").read_bytes() == made.path.read_bytes()
    with pytest.raises(InputError, match="cannot be written"):
        program.save(tmp_path / "no such folder" / "copy.tw")


def test_a_closed_program_says_so(made: Any) -> None:
    with made.load() as program:
        pass
    program.close()
    assert made.native.closed == 1
    with pytest.raises(InputError, match="closed"):
        program.run(None, feeds())


def test_a_missing_plugin_is_named(made: Any) -> None:
    with pytest.raises(UnknownNameError, match="no backend named 'double'"):
        load(made.path, registry=Registry(Discovery((), ())))


def test_a_broken_loader_is_named(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("broken_loader")
    module.TILEWRIGHT_API = 1  # type: ignore[attr-defined]

    @hookimpl
    def tilewright_backends() -> list[Backend]:
        return [Backend("double", "no_such:f", "no_such_module:f", "no_such:f")]

    module.tilewright_backends = tilewright_backends  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_loader", module)
    registry = Registry(Discovery((PluginInfo("doubler", "broken-dist", "9", "broken_loader"),), ()))
    with pytest.raises(PluginError, match=r"double.*broken-dist 9.*no_such_module"):
        load(made.path, registry=registry)


def test_a_corrupt_artifact_is_never_loaded(made: Any) -> None:
    data = bytearray(made.path.read_bytes())
    data[data.index(b"library bytes")] ^= 1
    made.path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"library\.so"):
        made.load()
    assert not hasattr(made, "native")


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("TILEWRIGHT_NUM_THREADS", raising=False)
    assert thread_count() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", "3")
    assert thread_count() == 3
    assert thread_count(2) == 2
    for wrong in ("0", "two", "-1"):
        monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", wrong)
        with pytest.raises(InputError):
            thread_count()


def test_random_feeds_are_what_was_declared_and_repeatable() -> None:
    infos = (
        TensorInfo("x", "bfloat16", (2, "n")),
        TensorInfo("ids", "int64", (4,)),
        TensorInfo("mask", "bool", ()),
    )
    first, second = random_feeds(infos, 3, {"n": 5}), random_feeds(infos, 3, {"n": 5})
    assert [(a.dtype.name, a.shape) for a in first.values()] == [
        ("bfloat16", (2, 5)),
        ("int64", (4,)),
        ("bool", ()),
    ]
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["x"], random_feeds(infos, 4, {"n": 5})["x"])
