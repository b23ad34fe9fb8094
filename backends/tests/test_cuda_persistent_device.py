"""Persistent launches on a device: merged models again and again, beside ONNX Runtime, and a plan that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.persistent import MERGES, merged, placed
from backends.tests.test_cuda_models import agree, expected
from backends.tests.test_cuda_persistent import branches, inputs_of, planned, settings_for
from tilewright.compiler import build_program
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.ir.program import Launch, Program
from tilewright.ir.verify import verify_program
from tilewright.testing.cases import Case
from tilewright.testing.models import BUILDERS
from tilewright_backends.load_cuda import CudaProgram, load_cuda

pytestmark = pytest.mark.gpu
UNITS = 132
RUNS = 10_000


def loaded(program: Program, folder: Path) -> CudaProgram:
    settings = settings_for("h200")
    output = build_program(program, settings, folder)
    weights = {x.name: np.ascontiguousarray(x.load()) for x in output.weights}
    return load_cuda(output.library, weights, output.data, target=str(settings.target), threads=1)


def outputs_of(program: Program) -> list[Any]:
    return [np.empty(v.static_shape(), dtypes.to_numpy(v.dtype)) for v in program.outputs]


def runs(made: Program, one: Case, folder: Path, times: int) -> None:
    """Runs a program: the first run calls the host function, the others replay a graph. All give the same bits."""
    native = loaded(made, folder)
    inputs, outputs = inputs_of(made, one), outputs_of(made)
    native.run(inputs, outputs)
    agree(made.output_names, outputs, expected(one.model, dict(one.feeds)))
    first = [x.copy() for x in outputs]
    for number in range(times):
        native.launch()
        if number % 100 == 99:
            native.run(inputs, outputs)
            assert all(np.array_equal(a, b) for a, b in zip(outputs, first, strict=True)), f"run {number}"
    native.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("merge", MERGES)
def test_a_merged_model_runs_ten_thousand_times(merge: str, dtype: str, tmp_path: Path) -> None:
    one = branches()
    made = merged(planned(one, settings_for("h200"), dtype), MERGES[merge], UNITS)
    verify_program(made)
    runs(made, one, tmp_path, RUNS)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("merge", ["phases", "side by side"])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_merged_block_agrees(name: str, merge: str, dtype: str, tmp_path: Path) -> None:
    block = BUILDERS[name]()
    one = Case(name, block.model, block.feeds)
    runs(merged(planned(one, settings_for("h200"), dtype), MERGES[merge], UNITS), one, tmp_path, 200)


def test_more_units_than_are_resident_are_refused(tmp_path: Path) -> None:
    made = merged(planned(branches(), settings_for("h200")), MERGES["phases"], 132 * 64)
    with pytest.raises(InputError, match="blocks on the GPU at once, and this one holds"):
        loaded(made, tmp_path)


def test_a_timeline_is_read_out(tmp_path: Path) -> None:
    one = branches()
    made = merged(planned(one, settings_for("h200")), MERGES["phases"], UNITS)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    made = placed(attrs.evolve(made, body=(attrs.evolve(launch, traced=64),)))
    native = loaded(made, tmp_path)
    for _ in range(3):
        native.run(inputs_of(made, one), outputs_of(made))
    (records,) = native.timeline().values()
    wanted = {(n, i) for n, k in made.kernels.items() for i in range(k.choice.resources.tasks)}
    assert {(x.kernel, x.task) for x in records} == wanted
    assert len(records) == len(wanted)
    assert all(0 <= x.end - x.begin < 1_000_000_000 and 0 <= x.place < 132 for x in records)
    native.close()
