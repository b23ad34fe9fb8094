"""Loading: what is refused and how, shapes, external data, folding, functions, names."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from core.tests.frontend.models import model, node, operators
from tilewright.errors import InputError, TilewrightError, UnsupportedError
from tilewright.frontend import import_model, load
from tilewright.interpret.tensor import interpret
from tilewright.ir.ops import OnnxNode


def relu() -> onnx.ModelProto:
    return model([node("Relu", ["x"])], {"x": ("float32", [2, 3])})


def test_path_bytes_and_proto_give_the_same_module(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(relu(), path)
    modules = [load(path), load(str(path)), load(path.read_bytes()), load(relu())]
    assert all(m.main == modules[0].main for m in modules)
    assert modules[0].input_names == ("x",)
    assert modules[0].output_names == ("y",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an ONNX model, or it is truncated (0 bytes)"),
        (b"this is no model at all", "is not an ONNX model"),
        (b"\x08\x07", "is not valid ONNX"),
    ],
)
def test_what_is_not_a_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(path)
    assert "'bad.onnx'" in str(caught.value)
    assert message in str(caught.value)


def test_a_truncated_model_is_refused() -> None:
    weights = {"w": np.ones((64, 64), np.float32)}
    data = model([node("MatMul", ["x", "w"])], {"x": ("float32", [2, 64])}, weights=weights).SerializeToString()
    for length in range(0, len(data), 997):
        with pytest.raises(InputError):
            load(data[:length])


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_model_gives_an_error_of_ours_or_a_module(seed: int) -> None:
    weights = {"w": np.ones((4, 3, 3, 3), np.float32), "b": np.ones(4, np.float32), "s": np.array([1, -1])}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["d"]),
        node("Reshape", ["d", "s"], ["e"]),
        node("Softmax", ["e"], axis=1),
    ]
    data = model(nodes, {"x": ("float32", [1, 3, 8, 8])}, weights=weights).SerializeToString()
    rng = random.Random(seed)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            match rng.randrange(3):
                case 0:
                    damaged[at] = rng.randrange(256)
                case 1:
                    del damaged[at : at + rng.randint(1, 8)]
                case _:
                    damaged[at:at] = rng.randbytes(rng.randint(1, 4))
        try:
            load(bytes(damaged))
        except TilewrightError:
            refused += 1
    assert 100 < refused < 400


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"'no/such\.onnx' cannot be read: No such file"):
        load("no/such.onnx")


def test_an_invalid_graph_is_refused() -> None:
    made = relu()
    made.graph.node[0].input[0] = "nothing"
    with pytest.raises(InputError, match="not valid ONNX"):
        load(made)


def test_an_unknown_operator_is_refused_with_its_name() -> None:
    made = model([helper.make_node("Frobnicate", ["x"], ["y"], name="f", domain="acme")], {"x": ("float32", [2])})
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [2]))
    with pytest.raises(UnsupportedError, match=r"acme\.Frobnicate node 'f' \(opset 3\)"):
        load(made)


def test_an_operator_without_a_rule_is_refused_with_its_name() -> None:
    made = model([node("RandomNormalLike", ["x"])], {"x": ("float32", [2])})
    with pytest.raises(UnsupportedError, match=r"RandomNormalLike node 'the RandomNormalLike' \(opset 18\)"):
        load(made)


def test_an_element_type_that_the_ir_lacks_is_refused() -> None:
    info = helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [2])
    graph = helper.make_graph([node("Identity", ["x"])], "g", [info], [helper.make_tensor_value_info("y", 8, [2])])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(UnsupportedError, match="Input 'x' has the element type string"):
        load(made)


def test_an_old_opset_is_converted() -> None:
    """Before opset 7 operands were broadcast by attributes."""
    inputs = {"x": ("float32", [2, 3]), "z": ("float32", [2])}
    made = model([node("Sub", ["x", "z"], broadcast=1, axis=0)], inputs, opset=6)
    x, z = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([1, 10])
    (found,) = interpret(load(made), [x, z])
    assert np.array_equal(found, x - z[:, None])


def test_an_old_operator_that_nothing_converts_is_refused() -> None:
    made = model([node("Tile", ["x", "n", "n"])], {"x": ("float32", [2]), "n": ("float32", [])}, opset=1)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2]))
    with pytest.raises(UnsupportedError, match=r"uses opset 1; .* cannot convert it: .*Tile"):
        load(made)


def test_a_dtype_mismatch_inside_the_model_is_refused_with_the_node() -> None:
    made = model([node("Add", ["x", "z"])], {"x": ("float32", [2]), "z": ("int64", [2])})
    with pytest.raises(InputError, match="the Add"):
        load(made)


# Shapes.


def symbolic() -> onnx.ModelProto:
    shapes: dict[str, Any] = {"x": ("float32", ["batch", 3]), "z": ("float32", ["batch", "rest"])}
    return model([node("Concat", ["x", "z"], axis=1)], shapes)


def test_a_symbolic_dimension_without_a_size_names_input_dimension_and_remedy() -> None:
    with pytest.raises(InputError) as caught:
        load(symbolic())
    assert "Dimension 0 ('batch') of input 'x' has no fixed size." in str(caught.value)
    assert "--shape x=1x3" in str(caught.value)


def test_a_shared_symbol_needs_its_size_once() -> None:
    made = symbolic()
    with pytest.raises(InputError, match=r"Dimension 1 \('rest'\) of input 'z'"):
        load(made, {"x": [4, 3]})
    module = load(made, {"z": [4, 5]})
    assert [p.static_shape() for p in module.main.body.params] == [(4, 3), (4, 5)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": [4, 3], "z": [5, 2]}, "'batch' is 4 in 'x', 5 in 'z'"),
        ({"x": [4, 7]}, "Dimension 1 of input 'x' is 3; the shape given for it says 7"),
        ({"x": [4]}, "Input 'x' has 2 dimensions"),
        ({"x": [-1, 3]}, "negative"),
        ({"xx": [4, 3]}, "Did you mean 'x'?"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(symbolic(), shapes)
    assert message in str(caught.value)


def test_a_bound_input_is_a_constant() -> None:
    made = model([node("Reshape", ["x", "s"])], {"x": ("float32", [6]), "s": ("int64", [2])})
    with pytest.raises(UnsupportedError, match="shape depends on the data"):
        load(made)
    module = load(made, bind={"s": np.array([2, 3])})
    assert module.input_names == ("x",)
    (out,) = interpret(module, [np.arange(6, dtype=np.float32)])
    assert out.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="'t', which is no input"):
        load(made, bind={"t": np.array([2, 3])})
    with pytest.raises(InputError, match="'s' is int64"):
        load(made, bind={"s": np.array([2.0, 3.0])})


def test_a_literal_that_is_cast_like_an_input_stays_one() -> None:
    nodes = [node("CastLike", ["tenth", "x"], ["c"]), node("Mul", ["x", "c"])]
    module = load(model(nodes, {"x": ("float16", [2, 3])}, weights={"tenth": np.asarray(0.1, np.float32)}))
    (op,) = module.main.body.ops
    assert len(op.inputs) == 1
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    (found,) = interpret(module, [x])
    np.testing.assert_array_equal(found, x * np.float16(0.1))


def test_before_ir_4_initialisers_that_are_inputs_are_optional() -> None:
    weights = {"w": np.full((3,), 2, np.float32)}
    made = model([node("Mul", ["x", "w"])], {"x": ("float32", [3]), "w": ("float32", [3])}, weights=weights)
    made.ir_version = 3
    module = load(made)
    assert module.input_names == ("x",)
    (out,) = interpret(module, [np.ones(3, np.float32)])
    assert out.tolist() == [2, 2, 2]


# External data.


def with_external(folder: Path, location: str = "w.bin", **entries: str) -> Path:
    made = model([node("Add", ["x", "w"])], {"x": ("float32", [4])}, weights={"w": np.zeros(4, np.float32)})
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=text)
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_external_data_is_read_at_its_offset(tmp_path: Path) -> None:
    np.arange(8, dtype=np.float32).tofile(tmp_path / "w.bin")
    module = load(with_external(tmp_path, offset="16", length="16"))
    (out,) = interpret(module, [np.zeros(4, np.float32)])
    assert out.tolist() == [4, 5, 6, 7]
    (constant,) = module.constants.values()
    assert isinstance(constant.data.base, np.memmap)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    np.ones(4, np.float32).tofile(tmp_path / "deep" / "real.bin")
    (tmp_path / "w.bin").symlink_to(Path("deep") / "real.bin")
    (out,) = interpret(load(with_external(tmp_path)), [np.zeros(4, np.float32)])
    assert out.tolist() == [1, 1, 1, 1]


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    np.ones(4, np.float32).tofile(tmp_path / "secret.bin")
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", ""):
        with pytest.raises(InputError, match="outside the model's folder"):
            load(with_external(inside, location))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "4"}, "needs 16 bytes"),
        ({"offset": "4", "length": "16"}, "needs 16 bytes"),
        ({"offset": "-4", "length": "16"}, "needs 16 bytes"),
        ({"length": "8"}, "needs 16 bytes"),
        ({"offset": "many"}, "no number"),
    ],
)
def test_external_data_of_the_wrong_size_is_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    np.ones(4, np.float32).tofile(tmp_path / "w.bin")
    with pytest.raises(InputError, match=message):
        load(with_external(tmp_path, **entries))


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    path = with_external(tmp_path)
    with pytest.raises(InputError, match=r"'w\.bin', which does not exist beside the model"):
        load(path)
    np.ones(4, np.float32).tofile(tmp_path / "w.bin")
    with pytest.raises(InputError, match="was not given as a path"):
        load(path.read_bytes())


# Folding.


def test_shape_arithmetic_around_a_reshape_disappears() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axis"], ["one"]),
        node("Concat", ["one", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([4, -1])}
    module = load(model(nodes, {"x": ("float32", [5, 8])}, weights=weights))
    (only,) = operators(module)
    assert only.loc.op_type == "Reshape"
    assert module.constants == {}


def test_a_constant_that_would_grow_is_not_folded() -> None:
    nodes = [node("Expand", ["w", "s"], ["big"]), node("Add", ["x", "big"])]
    weights = {"w": np.ones((1, 4), np.float32), "s": np.array([1 << 20, 4])}
    module = load(model(nodes, {"x": ("float32", [4])}, weights=weights))
    assert sum(c.data.nbytes for c in module.constants.values()) == 16


def test_constant_of_shape_takes_no_memory() -> None:
    weights = {"s": np.array([1 << 20, 1 << 20])}
    fill = helper.make_tensor("v", 1, [1], [0.5])
    nodes = [node("ConstantOfShape", ["s"], ["c"], value=fill), node("Gather", ["c", "x"], axis=0)]
    module = load(model(nodes, {"x": ("int64", [1])}, weights=weights))
    (constant,) = module.constants.values()
    assert constant.data.strides == (0, 0)


def test_a_branch_that_is_known_is_taken() -> None:
    def branch(kind: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node(kind, ["x"], [f"{kind}_out"])], kind, [], [onnx.ValueInfoProto(name=f"{kind}_out")]
        )

    nodes = [node("If", ["c"], then_branch=branch("Neg"), else_branch=branch("Abs"))]
    for flag, wanted in ((True, [-1.0, 2.0]), (False, [1.0, 2.0])):
        made = model(nodes, {"x": ("float32", [2])}, weights={"c": np.array(flag)})
        (out,) = interpret(load(made), [np.array([1, -2], np.float32)])
        assert out.tolist() == wanted


# Functions.


def test_functions_of_the_model_are_expanded_with_their_attributes() -> None:
    alpha = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"], name="inner")
    leaky.attribute.append(alpha)
    twice = helper.make_function(
        "acme", "Twice", ["a"], ["c"], [leaky, helper.make_node("Add", ["b", "b"], ["c"])],
        [helper.make_opsetid("", 18)], ["slope"],
    )  # fmt: skip
    call = helper.make_node("Twice", ["x"], ["y"], domain="acme", slope=0.25, name="outer")
    made = model([call], {"x": ("float32", [2])}, functions=[twice])
    module = load(made)
    (out,) = interpret(module, [np.array([-4, 4], np.float32)])
    assert out.tolist() == [-2.0, 8.0]
    assert [op.loc.node for op in operators(module)] == ["outer/inner", "outer/"]


def test_a_function_that_calls_itself_is_refused() -> None:
    again = helper.make_node("Loop", ["a"], ["b"], domain="acme")
    function = helper.make_function("acme", "Loop", ["a"], ["b"], [again], [helper.make_opsetid("acme", 3)])
    made = model([helper.make_node("Loop", ["x"], ["y"], domain="acme")], {"x": ("float32", [2])})
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [2]))
    made.functions.append(function)
    with pytest.raises(InputError):
        load(made)


# Names and results.


def test_names_are_safe_and_locations_keep_the_originals() -> None:
    terrible = '*/ [red]"<script>../'
    made = model(
        [helper.make_node("Relu", [terrible], ["1 é\n"], name=terrible)], {terrible: ("float32", [2])}, ["1 é\n"]
    )
    module = load(made)
    (op,) = operators(module)
    for name in (op.name, *(v.name for v in (*op.inputs, *op.outputs))):
        assert name.isidentifier()
        assert name.isascii()
    assert op.loc.node == terrible
    assert module.input_names == (terrible,)
    assert module.output_names == ("1 é\n",)


def test_names_stay_apart_when_only_odd_characters_differ() -> None:
    nodes = [node("Neg", ["x"], ["a/b"]), node("Abs", ["x"], ["a.b"]), node("Add", ["a/b", "a.b"])]
    module = load(model(nodes, {"x": ("float32", [2])}))
    assert len({op.name for op in operators(module)}) == 3


def test_values_are_never_called_like_an_axis() -> None:
    module = load(model([node("Neg", ["i0"], ["r0"])], {"i0": ("float32", [2])}, ["r0"]))
    (op,) = operators(module)
    assert {op.name, *(v.name for v in op.inputs)} == {"v_i0", "v_r0"}


def test_every_result_is_written_by_an_operator_of_its_own() -> None:
    nodes = [
        node("Identity", ["x"], ["same"]),
        node("Identity", ["w"], ["fixed"]),
        node("Neg", ["x"], ["first"]),
        node("Identity", ["first"], ["second"]),
    ]
    names = ["same", "fixed", "first", "second"]
    made = model(nodes, {"x": ("float32", [2])}, names, weights={"w": np.array([5.0, 6.0], np.float32)})
    module = load(made)
    results = module.main.body.results
    written = {v for op in operators(module) for v in op.outputs}
    assert len(set(results)) == 4
    assert set(results) <= written
    out = interpret(module, [np.array([1, 2], np.float32)])
    assert [x.tolist() for x in out] == [[1, 2], [5, 6], [-1, -2], [-1, -2]]


def test_dead_nodes_and_constants_are_dropped() -> None:
    nodes = [node("Exp", ["x"], ["unused"]), node("Add", ["unused", "w"], ["too"]), node("Neg", ["x"])]
    module = load(model(nodes, {"x": ("float32", [2])}, weights={"w": np.ones(2, np.float32)}))
    assert [op.loc.op_type for op in operators(module)] == ["Neg"]
    assert module.constants == {}


def test_the_imported_module_has_typed_nodes() -> None:
    module = import_model(model([node("Softmax", ["x"], axis=1)], {"x": ("float16", [2, 3])}))
    (only,) = module.main.body.ops
    assert isinstance(only, OnnxNode)
    assert (only.op_type, only.version, only.attr("axis")) == ("Softmax", 18, 1)
    assert only.outputs[0] is not None
    assert (only.outputs[0].dtype, only.outputs[0].static_shape()) == ("float16", (2, 3))


def test_loading_is_deterministic() -> None:
    nodes = [node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), node("Softmax", ["c"])]
    rng = np.random.default_rng(0)
    weights = {"w": rng.random((4, 3, 3, 3), np.float32), "b": rng.random(4, np.float32)}
    made = model(nodes, {"x": ("float32", [1, 3, 8, 8])}, weights=weights)
    assert load(made).main == load(made).main


def test_constants_share_the_given_bytes() -> None:
    made = model([node("Add", ["x", "w"])], {"x": ("float32", [2])}, weights={"w": np.ones(2, np.float32)})
    (constant,) = load(made).constants.values()
    assert not constant.data.flags.writeable
    assert np.array_equal(constant.data, numpy_helper.to_array(made.graph.initializer[0]))


def test_a_result_that_nothing_reads_may_be_one_that_the_operator_always_has() -> None:
    x = np.array([3, 1, 2], np.float32)
    top = node("TopK", ["x", "k"], ["y", "indices"], axis=0)
    module = load(model([top], {"x": ("float32", [3])}, ["y"], {"k": np.array([2], np.int64)}))
    assert interpret(module, [x])[0].tolist() == [3, 2]
    # The first one, and of constants, so that it is evaluated.
    top = node("TopK", ["w", "k"], ["values", "z"], axis=0)
    add = node("Add", ["z", "i"], ["y"])
    module = load(model([top, add], {"i": ("int64", [2])}, ["y"], {"k": np.array([2], np.int64), "w": x}))
    assert interpret(module, [np.array([10, 20])])[0].tolist() == [10, 22]
