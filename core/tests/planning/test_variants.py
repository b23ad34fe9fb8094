"""Launches that are measured as a program of their own."""

from __future__ import annotations

import numpy as np

from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.ir.verify import verify_program
from tilewright.planning.schedule.one_kernel import launch_of
from tilewright.planning.trial import Samples
from tilewright.planning.variants import launches_program
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import case, steps


def test_a_kernel_of_another_place_runs_with_its_own_weights() -> None:
    """Two equal products share a kernel, which is the first one's; the second by itself reads its own weights."""
    rng = np.random.default_rng(4)
    weights = {n: rng.standard_normal((16, 16)).astype(np.float32) for n in "uv"}
    feeds = {"x": rng.standard_normal((4, 16)).astype(np.float32)}
    module = load(case("two", steps("a = MatMul x u; y = MatMul a v"), feeds, weights=weights).model)
    session = conformance.session_of(bind(Config(target="cpu"), Registry()), module)
    session.tensors.update(module.constants)
    first, second = (session.plan(x) for x in session.connect(module.main.body).groups)
    assert first.kernel is second.kernel
    program = launches_program([second], [launch_of(second)], session.table, session.tensors)
    verify_program(program)
    assert [x.name for x in program.inputs] == [first.args[-1]]
    constant = {x.name for x in first.group.inputs} & set(module.constants)
    assert constant <= set(program.constants), "without them the kernel's group would read no constant, and be another"
    (found,) = run_tasks(program, [feeds["x"]])
    np.testing.assert_allclose(found, feeds["x"].astype(np.float64) @ weights["v"], rtol=1e-4, atol=1e-5)
    (measured,) = session.measure_launches([second], [[launch_of(second)]])
    assert isinstance(measured, Samples)
