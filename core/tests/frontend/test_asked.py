"""Shapes by the names of inputs and dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tilewright.errors import InputError
from tilewright.frontend import load
from tilewright.frontend.asked import MOST_VARIANTS, combinations


def inputs(**shapes: list[int | str]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


DECLARED = inputs(tokens=["batch", "seq"], mask=["batch", 1, "seq"], table=[8, 3])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [{}]),
        ({"batch": 4}, [{"batch": 4}]),
        ({"batch": [4]}, [{"batch": 4}]),
        ({"batch": np.int64(4)}, [{"batch": 4}]),
        ({"batch": [1, 4, 1]}, [{"batch": 1}, {"batch": 4}]),
        ({"batch": [[1], [4]]}, [{"batch": 1}, {"batch": 4}]),
        ({"tokens": (1, 3)}, [{"tokens": (1, 3)}]),
        ({"tokens": [[1, 3], [2, 3]]}, [{"tokens": (1, 3)}, {"tokens": (2, 3)}]),
        (
            {"batch": [1, 2], "seq": [5, 6]},
            [{"batch": b, "seq": s} for b in (1, 2) for s in (5, 6)],
        ),
        ({"batch": 2, "tokens": (2, 7)}, [{"batch": 2, "tokens": (2, 7)}]),
    ],
)
def test_every_combination_is_found(asked: dict[str, Any], found: list[dict[str, Any]]) -> None:
    assert list(combinations(DECLARED, asked)) == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"batches": 4}, ["'batches'", "no input and no named dimension", "Did you mean 'batch'?"]),
        ({"qqq": 4}, ["'qqq'", "'tokens'", "'seq'"]),
        ({"batch": []}, ["'batch' is a dimension", "--shape batch=4"]),
        ({"batch": -1}, ["'batch' is a dimension", "-1"]),
        ({"batch": [[1, 2]]}, ["'batch' is a dimension", "[[1, 2]]"]),
        ({"tokens": 4}, ["'tokens' needs a shape"]),
        ({"tokens": [1, (2, 3)]}, ["'tokens'", "whole numbers"]),
        ({"tokens": ["1", "2"]}, ["'tokens'", "whole numbers"]),
        ({"batch": 1.5}, ["'batch'", "whole numbers"]),
        ({"batch": list(range(9)), "seq": list(range(9))}, ["81", "9 of 'batch' × 9 of 'seq'", str(MOST_VARIANTS)]),
    ],
)
def test_what_cannot_be_meant_is_an_error(asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        combinations(DECLARED, asked)
    for word in words:
        assert word in str(caught.value)


def test_a_name_of_an_input_and_a_dimension_is_settled_by_the_form_or_refused() -> None:
    plane, vector = inputs(n=["n", 3]), inputs(n=["n"])
    assert combinations(plane, {"n": 4}) == ({"n": 4},)
    assert combinations(plane, {"n": [[4], [5]]}) == ({"n": 4}, {"n": 5})
    assert combinations(plane, {"n": [[4, 3]]}) == ({"n": (4, 3)},)
    assert combinations(vector, {"n": 4}) == ({"n": 4},)
    for declared, given in ((plane, [4, 3]), (vector, [[4]]), (vector, [4])):
        with pytest.raises(InputError, match="'n' is an input and a dimension"):
            combinations(declared, {"n": given})


def model() -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "batch", "seq"])
    graph = helper.make_graph([helper.make_node("Add", ["tokens", "mask"], ["y"])], "g", DECLARED[:2], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_named_dimension_is_set_in_every_input_that_has_it() -> None:
    module = load(model(), {"batch": 2, "seq": 5})
    assert [x.static_shape() for x in module.main.body.params] == [(2, 5), (2, 1, 5)]


def test_sizes_and_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(InputError, match="'batch' is given as 2, 3 in 'tokens'"):
        load(model(), {"batch": 2, "tokens": (3, 5)})


def test_an_open_dimension_asks_for_its_name() -> None:
    with pytest.raises(InputError, match=r"'seq'.*--shape seq=1, or.*--shape tokens=1x1"):
        load(model(), {"batch": 2})
