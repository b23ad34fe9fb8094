"""What legalised operators look like: the shapes of domains, indices and guards that later stages rely on."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest

from core.tests.frontend.models import check, model, node, operators
from tilewright.errors import InternalError, UnsupportedError
from tilewright.frontend import load
from tilewright.frontend.legalize import Builder, Node, Rule, Tensor, builtin_table
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import Apply, Const, Var, walk
from tilewright.ir.ops import ScanOp
from tilewright.views.maps import writes_every_element_once

RNG = np.random.default_rng(7)


def rand(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def test_matmul_has_batch_row_column_and_depth_axes() -> None:
    (op,) = operators(check("MatMul", {"x": rand(5, 1, 3, 4), "z": rand(2, 4, 6)}))
    assert [(a.name, a.extent.value, a.kind) for a in op.axes] == [  # type: ignore[attr-defined]
        ("i0", 5, "spatial"), ("i1", 2, "spatial"), ("i2", 3, "spatial"), ("i3", 6, "spatial"), ("r0", 4, "reduce"),
    ]  # fmt: skip
    left, right = op.reads
    assert left.index == (Var("i0"), Const(0, "int64"), Var("i2"), Var("r0"))
    assert right.index == (Var("i1"), Var("r0"), Var("i3"))


@pytest.mark.parametrize(
    ("a", "b"), [((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((2, 1, 4), (4,)), ((1, 4), (4, 1))]
)
def test_matmul_of_vectors_and_single_rows(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check("MatMul", {"x": rand(*a), "z": rand(*b)})


def test_conv_has_no_axis_for_one_batch_one_group_or_one_kernel_element() -> None:
    weights = {"w": rand(6, 4, 1, 3)}
    (op,) = operators(
        check("Conv", {"x": rand(1, 4, 5, 9)}, weights, strides=[1, 2], pads=[0, 1, 0, 1], tolerance=1e-5)
    )
    assert [a.extent.value for a in op.spatial] == [6, 5, 5]  # type: ignore[attr-defined]
    assert [a.extent.value for a in op.reduce] == [4, 3]  # type: ignore[attr-defined]
    pixel, weight = op.reads
    assert pixel.guard is not None
    assert pixel.fill == Const(0.0, "float32")
    assert weight.guard is None
    assert writes_every_element_once(op)


def test_only_the_halves_of_a_guard_that_can_fail_stay() -> None:
    weights = {"w": rand(1, 1, 3)}
    (op,) = operators(check("Conv", {"x": rand(1, 1, 9)}, weights, pads=[1, 0], tolerance=1e-5))
    assert repr(op.reads[0].guard) == "le(0, add(add(i0, -1), r0))"
    (op,) = operators(check("Conv", {"x": rand(1, 1, 9)}, weights, tolerance=1e-5))
    assert op.reads[0].guard is None


def test_grouped_conv_has_a_group_axis() -> None:
    weights = {"w": rand(6, 2, 3)}
    (op,) = operators(check("Conv", {"x": rand(2, 4, 9)}, weights, group=2, tolerance=1e-5))
    assert [a.extent.value for a in op.axes] == [2, 2, 3, 7, 2, 3]  # type: ignore[attr-defined]
    assert repr(op.writes[0].index[1]) == "add(mul(i1, 3), i2)"
    assert writes_every_element_once(op)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_half_contractions_round_once_after_the_bias(dtype: str, kind: str) -> None:
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    x = rand(1, 40, 5) if kind == "Conv" else rand(5, 40)
    w = rand(3, 40, 1) if kind == "Conv" else rand(40, 3)
    given = {"x": x.astype(numpy_dtype)}
    weights = {"w": w.astype(numpy_dtype), "b": (rand(3) * 50).astype(numpy_dtype)}
    module = load(model([node(kind, ["x", "w", "b"])], given, weights=weights, opset=22))
    product, bias = operators(module)
    assert product.outputs[0].dtype == "float32"
    assert product.combiner is not None
    assert product.combiner.dtypes == ("float32",)
    assert bias.outputs[0].dtype == dtype
    (mine,) = interpret(module, given)
    wide = {k: v.astype(np.float64) for k, v in {**given, **weights}.items()}
    if kind == "Conv":
        exact = np.einsum("nct,oc->not", wide["x"], wide["w"][..., 0]) + wide["b"][None, :, None]
    else:
        exact = wide["x"] @ wide["w"] + wide["b"]
    assert np.array_equal(mine, exact.astype(np.float32).astype(numpy_dtype))


def test_half_sums_are_carried_in_float32() -> None:
    x = np.full((1, 5000), 1.0, np.float16)
    module = load(model([node("ReduceSum", ["x", "a"])], {"x": x}, weights={"a": np.array([1])}))
    (out,) = interpret(module, {"x": x})
    assert out.dtype == np.float16
    assert out.tolist() == [[5000.0]]  # a float16 sum would stick at 2048


def test_transpose_has_its_axes_in_output_order() -> None:
    (op,) = operators(check("Transpose", {"x": rand(3, 4, 5)}, perm=[2, 0, 1]))
    assert op.writes[0].index == (Var("i0"), Var("i1"), Var("i2"))
    assert op.reads[0].index == (Var("i1"), Var("i2"), Var("i0"))


@pytest.mark.parametrize(
    ("source", "target"),
    [((2, 8, 48), (2, 8, 3, 16)), ((2, 3, 4), (6, 4)), ((4, 6), (2, 2, 3, 2)), ((12,), (3, 4)), ((2, 6), (4, 3))],
)
def test_a_reshape_that_splits_or_joins_has_no_division(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    (op,) = operators(check("Reshape", {"x": rand(*source)}, {"s": np.array(target)}))
    exprs = [*op.reads[0].index, *op.writes[0].index]
    if (source, target) == ((2, 6), (4, 3)):  # strides 6 and 3 divide one another: still exact
        assert [a.extent.value for a in op.axes] == [2, 2, 3]  # type: ignore[attr-defined]
    assert not any(isinstance(n, Apply) and n.op in ("floordiv", "floormod") for e in exprs for n in walk(e))
    assert writes_every_element_once(op)


def test_a_reshape_without_a_refinement_divides_in_its_own_block_only() -> None:
    (op,) = operators(check("Reshape", {"x": rand(7, 4, 6, 5)}, {"s": np.array([7, 3, 8, 5])}))
    assert [a.extent.value for a in op.axes] == [7, 24, 5]  # type: ignore[attr-defined]
    assert repr(op.reads[0].index[0]) == "i0"
    assert repr(op.reads[0].index[3]) == "i2"


def test_a_reshape_that_changes_nothing_leaves_no_operator() -> None:
    nodes = [node("Reshape", ["x", "s"], ["a"]), node("Transpose", ["a"], ["b"], perm=[0, 1]), node("Neg", ["b"])]
    module = load(model(nodes, {"x": ("float32", [2, 3])}, weights={"s": np.array([2, -1])}))
    assert [op.loc.op_type for op in operators(module)] == ["Neg"]


def test_concat_is_one_guarded_operator() -> None:
    (op,) = operators(check("Concat", {"a": rand(2, 3), "b": rand(2, 1), "c": rand(2, 4)}, axis=1))
    assert [r.value.name for r in op.reads] == ["a", "b", "c"]
    assert all(r.guard is not None for r in op.reads)


def test_scalar_constants_are_literals() -> None:
    module = check("Mul", {"x": rand(3)}, {"w": np.array([2.5], np.float32)})
    (op,) = operators(module)
    assert len(op.reads) == 1
    assert module.constants == {}


def test_batch_normalization_with_known_statistics_is_one_multiply_add() -> None:
    weights = {n: np.abs(rand(4)) + 0.1 for n in ("s", "o", "m", "v")}
    weights = {n: x.astype(np.float32) for n, x in weights.items()}
    module = check("BatchNormalization", {"x": rand(2, 4, 3)}, weights, tolerance=1e-5)
    (op,) = operators(module)
    assert repr(op.body[0]) == "add(mul(%0, %1), %2)"


def test_softmax_is_reductions_and_element_wise_operators() -> None:
    ops = operators(check("Softmax", {"x": rand(3, 5)}, axis=1))
    assert [op.combiner.name if op.combiner else "" for op in ops] == ["max", "", "sum", ""]


def test_argmax_is_a_tuple_reduction() -> None:
    (op,) = operators(check("ArgMax", {"x": rand(3, 5)}, axis=1))
    assert op.combiner is not None
    assert op.combiner.dtypes == ("int64", "float32")
    assert len(op.writes) == 1


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("kind", ["ArgMax", "ArgMin"])
def test_ties_go_to_the_first_or_last(kind: str, last: int) -> None:
    x = RNG.integers(0, 3, (6, 40)).astype(np.float32)
    x[0] = -np.inf
    check(kind, {"x": x}, axis=1, select_last_index=last)


def test_a_scatter_has_a_base_and_an_update() -> None:
    given = {"x": rand(4, 3), "i": RNG.integers(-4, 4, (6, 3)), "u": rand(6, 3)}
    (op,) = operators(check("ScatterElements", given, axis=0, reduction="add"))
    (write,) = op.writes
    assert write.base is not None
    assert write.update is not None
    assert write.update.name == "sum"


def test_a_cumulative_sum_is_a_scan() -> None:
    module = check("CumSum", {"x": rand(3, 5)}, {"a": np.array(1)}, exclusive=1, reverse=1)
    (op,) = module.main.body.ops
    assert isinstance(op, ScanOp)
    assert (op.scan.name, len(op.axes)) == ("t", 1)


def test_nearest_doubling_copies_along_split_axes() -> None:
    weights = {"roi": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}
    (op,) = operators(check("Resize", {"x": rand(1, 3, 4, 5)}, weights, mode="nearest"))
    assert [a.extent.value for a in op.axes] == [3, 4, 2, 5, 2]  # type: ignore[attr-defined]
    assert len(op.reads) == 1
    assert writes_every_element_once(op)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [3, 2], "pads": [0, 1, 2, 0], "output_padding": [1, 1]},
        {"strides": [2, 2], "dilations": [2, 1]},
    ],
)
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 1)])
def test_transposed_convolution(attributes: dict[str, object], kernel: tuple[int, int]) -> None:
    module = check("ConvTranspose", {"x": rand(2, 4, 3, 5)}, {"w": rand(4, 3, *kernel)}, tolerance=1e-4, **attributes)
    (op,) = operators(module)
    assert writes_every_element_once(op)


def test_a_grouped_transposed_convolution() -> None:
    # ONNX's evaluator fails on these, so ONNX Runtime is the reference.
    given, weights = {"x": rand(2, 4, 3, 5)}, {"w": rand(4, 3, 2, 3), "b": rand(6)}
    made = model([node("ConvTranspose", ["x", "w", "b"], group=2, strides=[2, 1])], given, weights=weights)
    (mine,) = interpret(load(made), given)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(mine, session.run(None, given)[0], rtol=1e-4, atol=1e-5)


def test_a_strided_transposed_convolution_computes_nothing_in_vain() -> None:
    (op,) = operators(
        check("ConvTranspose", {"x": rand(1, 4, 3, 5)}, {"w": rand(4, 3, 2, 2)}, strides=[2, 2], tolerance=1e-4)
    )
    assert [a.extent.value for a in op.axes] == [3, 3, 2, 5, 2, 4]  # type: ignore[attr-defined]
    assert op.reads[0].guard is None


# The registry.


def test_a_third_partys_rule_is_used() -> None:
    def double(b: Builder, node: Node) -> Tensor:
        x = node[0]
        return b.compute(x.dtype, x.shape, lambda *i: x[i] + x[i])

    table = builtin_table().extended([Rule("RandomNormalLike", double)])
    made = model([node("RandomNormalLike", ["x"])], {"x": ("float32", [2])})
    (out,) = interpret(load(made, table=table), [np.array([1, 2], np.float32)])
    assert out.tolist() == [2, 4]
    with pytest.raises(UnsupportedError):
        load(made)


def test_two_rules_for_one_opset_are_refused() -> None:
    rule = builtin_table().find("", "Add", 18)
    assert rule is not None
    with pytest.raises(InternalError, match="Two legalisation rules are given for Add"):
        builtin_table().extended([rule])


def test_the_rule_of_the_nearest_opset_is_used() -> None:
    def one(b: Builder, node: Node) -> Tensor:
        raise AssertionError

    def two(b: Builder, node: Node) -> Tensor:
        raise AssertionError

    table = builtin_table().extended([Rule("Zap", one, since=3), Rule("Zap", two, since=9)])
    found = [table.find("", "Zap", v) for v in (2, 3, 8, 9, 20)]
    assert [x and x.function for x in found] == [None, one, one, two, two]


def test_a_rule_of_the_wrong_type_is_an_internal_error() -> None:
    def wrong(b: Builder, node: Node) -> Tensor:
        return b.compute("float64", node[0].shape, lambda *i: node[0][i])

    table = builtin_table().extended([Rule("RandomNormalLike", wrong)])
    with pytest.raises(InternalError, match="The rule for RandomNormalLike node"):
        load(model([node("RandomNormalLike", ["x"])], {"x": ("float32", [2])}), table=table)
