"""Seeded variants: weights that prove something, and the values before the last Softmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilewright.errors import InputError
from tilewright.testing.seeded import expose_logits, light_model, light_names, seeded

onnxruntime = pytest.importorskip("onnxruntime")


def small() -> onnx.ModelProto:
    """A 1×1 convolution and a Softmax, as the light models store them: weights are ConstantOfShape nodes."""
    value = numpy_helper.from_array(np.array([0.02], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"], value=value),
        helper.make_node("ConstantOfShape", ["bias_shape"], ["b"], value=value),
        helper.make_node("ConstantOfShape", ["shape"], ["ids"], value=numpy_helper.from_array(np.array([3]))),
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"], axis=1),
    ]
    shapes = {"shape": [8, 4, 1, 1], "bias_shape": [8]}
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 2]),
            *(helper.make_tensor_value_info(n, TensorProto.INT64, [len(s)]) for n, s in shapes.items()),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 2, 2]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, [8, 4, 1, 1]),
        ],
        [numpy_helper.from_array(np.array(s, np.int64), n) for n, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_float_weights_become_random_and_nothing_else_does() -> None:
    given = small()
    before = given.SerializeToString()
    model = seeded(given)
    assert given.SerializeToString() == before
    onnx.checker.check_model(model, full_check=True)
    found = weights(model)
    assert set(found) == {"w", "b", "shape"}
    assert [n.op_type for n in model.graph.node] == ["ConstantOfShape", "Conv", "Softmax"]
    assert [i.name for i in model.graph.input] == ["x"]
    assert found["w"].std() == pytest.approx(np.sqrt(2 / 4), rel=0.4)
    assert found["b"].min() >= 0.01
    assert len(np.unique(found["b"])) == 8


def test_equal_seeds_give_equal_weights() -> None:
    first, same, other = (weights(seeded(small(), seed))["w"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_value_before_the_last_softmax_is_an_output() -> None:
    model = expose_logits(small())
    assert [o.name for o in model.graph.output] == ["y", "ids", "c"]
    onnx.checker.check_model(model, full_check=True)
    assert expose_logits(model) is model


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "densenet121"])
def test_the_outputs_of_seeded_light_models_vary(name: str) -> None:
    model = light_model(name)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (x,) = session.get_inputs()
    feeds = {x.name: np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)}
    for output in session.run(None, feeds):
        assert len(np.unique(output)) > output.size / 2
        assert np.isfinite(output).all()


def test_all_nine_light_models_are_known() -> None:
    assert len(light_names()) == 9
    with pytest.raises(InputError, match="resnet50"):
        light_model("resnet")
