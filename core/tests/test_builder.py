"""Modules built in Python: what is recorded means what NumPy says, and what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tilewright.builder import FunctionBuilder, ModuleBuilder, Type
from tilewright.errors import InputError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.testing.recursion import recursion_case

INT: Type = ("int64", ())
MATRIX: Type = ("float32", (2, 3))
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
B = FunctionBuilder


def built(body: Callable[..., Any], *params: Type) -> Module:
    m = ModuleBuilder()
    m.entry(params)(body)
    return m.build()


def test_operators_of_onnx_and_tensor_operators() -> None:
    weight = np.ones((3, 2), np.float32)

    def main(b: B, x: Tensor) -> Any:
        product = b.op("MatMul", x, weight)
        twice = b.compute("float32", (3, 2), lambda i, j: x[j, i] * 2.0)
        total = b.reduce("float32", (2,), (3,), "sum", lambda i, r: x[i, r])
        values, places = b.op("TopK", x, np.asarray([1]), outputs=2)
        return product, twice, total, values, places, b.op("Add", x, 1)

    module = built(main, MATRIX)
    assert module.input_names == ("x",)
    assert module.output_names == tuple(f"output{n}" for n in range(6))
    found = interpret(module, [X])
    wanted = [X @ weight, X.T * 2, X.sum(1), X.max(1, keepdims=True), [[2], [2]], X + 1]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b)


def test_what_is_known_is_computed_when_building() -> None:
    def main(b: B, x: Tensor) -> Any:
        small = b.op("Less", b.constant(1), b.constant(2))
        return b.cond(small, lambda: x, lambda: b.op("Neg", x)), b.op("Add", b.constant([1.0]), b.constant([2.0]))

    module = built(main, MATRIX)
    found = interpret(module, [X])
    assert np.array_equal(found[0], X)
    assert found[1].tolist() == [3.0]


def test_loops_with_counts_and_conditions() -> None:
    def main(b: B, n: Tensor, x: Tensor) -> Any:
        def step(k: Tensor, a: Tensor, c: Tensor) -> Any:
            return c, b.op("Add", a, b.op("Cast", k, to=1))

        swapped = b.for_loop(n, step, x, b.op("Neg", x))
        fixed = b.for_loop(3, lambda _, a: b.op("Mul", a, 2.0), x)
        last = b.while_loop(lambda k: b.op("Less", k, 50), lambda k: b.op("Mul", k, 3), b.op("Add", n, 1))
        return *swapped, fixed, last

    for n in (0, 1, 4):
        a, c, k = X.copy(), -X, n + 1
        for trip in range(n):
            a, c = c, a + trip
        while k < 50:
            k *= 3
        found = interpret(built(main, INT, MATRIX), [np.asarray(n), X])
        for x, y in zip(found, (a, c, X * 8, k), strict=True):
            np.testing.assert_allclose(x, y)


def test_functions_that_are_not_called_are_not_traced() -> None:
    m = ModuleBuilder()

    @m.function([INT], [INT])
    def unused(b: B, n: Tensor) -> Any:
        raise AssertionError

    @m.function([INT], [INT])
    def twice(b: B, n: Tensor) -> Any:
        return b.op("Add", n, n)

    @m.entry([INT], ["four"])
    def main(b: B, n: Tensor) -> Any:
        return b.call(twice, b.call(twice, n))

    module = m.build()
    assert list(module.functions) == ["main"]
    assert module.output_names == ("four",)
    assert int(interpret(module, {"n": np.asarray(3)})[0]) == 12


def two(b: B, n: Tensor) -> Any:
    return n, n


def refused(text: str, body: Callable[[ModuleBuilder], Callable[..., Any]]) -> None:
    def build() -> None:
        m = ModuleBuilder()
        m.entry([INT])(body(m))
        m.build()

    with pytest.raises(InputError, match=text):
        build()


def test_what_does_not_fit_is_refused() -> None:
    def calling(*operands: Any, results: Any = (INT,), inner: Any = None) -> Callable[[ModuleBuilder], Any]:
        def body(m: ModuleBuilder) -> Callable[..., Any]:
            def same(b: B, n: Tensor) -> Any:
                return n if inner is None else inner(b, n)

            handle = m.function([INT], results)(same)

            def main(b: B, n: Tensor) -> Any:
                return b.call(handle, *(operands or (n,)))

            return main

        return body

    def plain(run: Callable[[B, Tensor], Any]) -> Callable[[ModuleBuilder], Any]:
        def main(b: B, n: Tensor) -> Any:
            return run(b, n)

        return lambda _: main

    refused("'same' takes 1 operands, 2 are given", calling(1, 2))
    refused(r"'same' is called with float32 \[2, 3\]; it is declared with int64 \[\]", calling(X))
    refused(r"'same' returns int64 \[\], int64 \[\]; it is declared with int64 \[\]", calling(inner=two))
    refused(r"'same' returns int64 \[\]; it is declared with float32 \[2\]", calling(results=[("float32", (2,))]))
    refused("'float31' is no element type", calling(results=[("float31", ())]))
    refused("returns nothing", plain(lambda b, n: None))
    uneven = plain(lambda b, n: b.cond(b.op("Less", n, 1), lambda: n, lambda: 1.0))
    refused(r"branches .* return int64 \[\] and float32 \[\]", uneven)
    number = plain(lambda b, n: b.cond(n, lambda: n, lambda: n))
    refused(r"condition .* must be a scalar of bool; found int64 \[\]", number)
    refused("A loop in function 'main' returns", plain(lambda b, n: b.for_loop(n, lambda k, x: 1.5, n)))
    refused(r"Add node 'main/Add' \(opset 22\) does not fit its inputs", plain(lambda b, n: b.op("Add", n, X)))
    refused("Frobnicate node", plain(lambda b, n: b.op("Frobnicate", n)))
    leaked: list[Tensor] = []

    def leaking(b: B, n: Tensor) -> Any:
        b.cond(b.op("Less", n, 1), lambda: leaked.append(b.op("Neg", n)) or n, lambda: n)  # type: ignore[func-returns-value]
        return leaked[0]

    refused("a tensor of another function or of a branch or loop that has ended", plain(leaking))


def test_modules_without_or_with_two_entries_are_refused() -> None:
    m = ModuleBuilder()
    with pytest.raises(InputError, match="no entry"):
        m.build()
    handle = m.entry([INT])(two)
    with pytest.raises(InputError, match="two entries"):
        m.entry([INT])(lambda b, n: n)
    with pytest.raises(InputError, match="two functions called 'two'"):
        m.function([INT], [INT])(two)
    with pytest.raises(InputError, match="takes a builder and 1 tensors; 2 types are given"):
        m.function([INT, INT], [INT])(lambda b, n: n)
    with pytest.raises(InputError, match="at least 1"):
        ModuleBuilder(depth=0)
    other = ModuleBuilder()
    other.entry([INT])(lambda b, n: b.call(handle, n))
    with pytest.raises(InputError, match="belongs to another module"):
        other.build()


@pytest.mark.parametrize("seed", range(40, 60))
def test_random_recursions_mean_what_python_says(seed: int) -> None:
    case = recursion_case(seed)
    for found, wanted in zip(interpret(case.module, case.feeds), case.wanted, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
