"""Values stored in another order: what a region computes stays the same."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.ops import TensorOp
from tilewright.ir.verify import verify_module
from tilewright.rewrites.reorder import reordered
from tilewright.testing.cases import Case
from tilewright.testing.corpus import corpus

NAMES = ("convs after a conv, one by one and in a window of stride 2", "grouped conv and pool between convs, joined")



def found(name: str) -> Case:
    return next(x for x in corpus("float32") if x.name == f"{name} float32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 1, 0, 2)])
def test_every_value_between_operators_can_be_stored_in_another_order(name: str, order: tuple[int, ...]) -> None:
    case = found(name)
    module = load(case.model)
    body = module.main.body
    between = [v for op in body.ops for v in op.outputs if v is not None and v not in body.results and v.rank == 4]
    assert len(between) >= 2
    changed = reordered(body, dict.fromkeys(between, order))
    shapes = {v.name: v.static_shape() for op in changed.ops for v in op.outputs if v is not None}
    for v in between:
        assert shapes[v.name] == tuple(v.static_shape()[i] for i in order)
    module_after = module.with_main(changed)
    verify_module(module_after)
    before, after = (interpret(x, [case.feeds[n] for n in module.input_names]) for x in (module, module_after))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-4)


def test_an_operator_walks_along_the_memory_of_what_it_writes_and_reads() -> None:
    module = load(found(NAMES[0]).model)
    body = module.main.body
    between = [v for op in body.ops for v in op.outputs if v is not None and v not in body.results and v.rank == 4]
    changed = reordered(body, dict.fromkeys(between, (0, 2, 3, 1)))
    convs = [op for op in changed.ops if isinstance(op, TensorOp) and op.combiner is not None]
    first, second, _ = convs
    assert [x.extent.value for x in first.spatial] == [13, 11, 16]
    assert [x.extent.value for x in first.reduce] == [3, 3, 3]  # it reads the model's input, which stays
    assert first.reduce == body.ops[0].reduce
    assert [x.extent.value for x in second.spatial] == [7, 6, 64]
    assert [x.extent.value for x in second.reduce] == [3, 3, 16]
