"""Functions that call themselves and each other: interpreted, as tasks on poisoned storage, and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.compiler import plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.errors import InputError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.program import HostCopy, calls
from tilewright.ir.text import parse_module
from tilewright.ir.verify import verify_module
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import loaded, run
from tilewright.testing.recursion import recursion_case

INT = ("int64", ())


@cache
def settings() -> Settings:
    return bind(Config(target="cpu"), Registry())


def three_ways(module: Module, feeds: Sequence[Any], seed: int = 0) -> list[Sequence[Any]]:
    program = plan_module(module, settings()).program
    return [interpret(module, feeds), run_tasks(program, feeds, seed), run(program, settings(), feeds)]


def check(seed: int) -> None:
    case = recursion_case(seed)
    for outputs in three_ways(case.module, case.feeds, seed):
        for found, wanted in zip(outputs, case.wanted, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(30))
def test_a_random_recursion_agrees_with_python(seed: int) -> None:
    check(seed)


@pytest.mark.slow(every=4)
@pytest.mark.parametrize("start", range(30, 430, 50))
def test_many_random_recursions_agree_with_python(start: int) -> None:
    for seed in range(start, start + 50):
        check(seed)


def fibonacci(depth: int = 64) -> Module:
    m = ModuleBuilder(depth)

    @m.function([INT], [INT])
    def fib(b: FunctionBuilder, n: Tensor) -> Any:
        def recurse() -> Any:
            return b.op("Add", b.call(fib, b.op("Sub", n, 1)), b.call(fib, b.op("Sub", n, 2)))

        return b.cond(b.op("Less", n, 2), lambda: n, recurse)

    @m.entry([INT])
    def main(b: FunctionBuilder, n: Tensor) -> Any:
        return b.call(fib, n)

    return m.build()


def count_down(depth: int) -> Module:
    """The sum of the numbers up to `n`, as deep as `n` is large."""
    m = ModuleBuilder(depth)

    @m.function([INT], [INT])
    def total(b: FunctionBuilder, n: Tensor) -> Any:
        return b.cond(b.op("Greater", n, 0), lambda: b.op("Add", n, b.call(total, b.op("Sub", n, 1))), lambda: n)

    @m.entry([INT])
    def main(b: FunctionBuilder, n: Tensor) -> Any:
        return b.call(total, n)

    return m.build()


def number(n: int) -> Any:
    return np.asarray(n, np.int64)


@pytest.mark.parametrize(("n", "wanted"), [(0, 0), (1, 1), (2, 1), (10, 55)])
def test_fibonacci(n: int, wanted: int) -> None:
    assert [int(x[0]) for x in three_ways(fibonacci(), [number(n)])] == [wanted] * 3


def test_functions_that_call_each_other() -> None:
    """Hofstadter's female and male sequences."""
    m = ModuleBuilder()

    @m.function([INT], [INT])
    def female(b: FunctionBuilder, n: Tensor) -> Any:
        def deeper() -> Any:
            return b.op("Sub", n, b.call(male, b.call(female, b.op("Sub", n, 1))))

        return b.cond(b.op("Equal", n, 0), lambda: 1, deeper)

    @m.function([INT], [INT])
    def male(b: FunctionBuilder, n: Tensor) -> Any:
        def deeper() -> Any:
            return b.op("Sub", n, b.call(female, b.call(male, b.op("Sub", n, 1))))

        return b.cond(b.op("Equal", n, 0), lambda: n, deeper)

    @m.entry([INT])
    def main(b: FunctionBuilder, n: Tensor) -> Any:
        return b.call(female, n), b.call(male, n)

    def wanted(n: int) -> tuple[int, int]:
        f, g = [1], [0]
        for k in range(1, n + 1):
            g.append(k - f[g[k - 1]])
            f.append(k - g[f[k - 1]])
        return f[n], g[n]

    module = m.build()
    for n in (0, 1, 7):
        assert [tuple(map(int, x)) for x in three_ways(module, [number(n)])] == [wanted(n)] * 3


def test_a_tree_with_what_every_call_reads_where_it_stands() -> None:
    """A recursive auto-encoder over a binary tree. Only the node's number is passed."""
    nodes, width = 15, 8
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2 * width, width)).astype(np.float32) / 4
    bias = rng.standard_normal(width).astype(np.float32)
    m = ModuleBuilder()
    tree = [("int64", (nodes,)), ("int64", (nodes,)), ("bool", (nodes,)), ("float32", (nodes, width))]

    @m.function([INT, *tree], [("float32", (1, width))])
    def encode(b: FunctionBuilder, node: Tensor, left: Tensor, right: Tensor, leaf: Tensor, words: Tensor) -> Any:
        def inner() -> Any:
            children = [b.call(encode, b.op("Gather", x, node), left, right, leaf, words) for x in (left, right)]
            return b.op("Tanh", b.op("Add", b.op("MatMul", b.op("Concat", *children, axis=1), weight), bias))

        first = np.asarray([0])
        return b.cond(b.op("Gather", leaf, node), lambda: b.op("Unsqueeze", b.op("Gather", words, node), first), inner)

    @m.entry([INT, *tree])
    def main(b: FunctionBuilder, root: Tensor, left: Tensor, right: Tensor, leaf: Tensor, words: Tensor) -> Any:
        return b.call(encode, root, left, right, leaf, words)

    module = m.build()
    children = {0: (1, 2), 1: (3, 4), 2: (5, 6), 4: (7, 8), 8: (9, 10), 10: (11, 12)}
    left, right, leaf = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.ones(nodes, bool)
    for node, (a, b) in children.items():
        left[node], right[node], leaf[node] = a, b, False
    words = rng.standard_normal((nodes, width)).astype(np.float32)

    def wanted(node: int) -> Any:
        if leaf[node]:
            return words[node : node + 1].astype(np.float64)
        return np.tanh(np.concatenate([wanted(int(left[node])), wanted(int(right[node]))], axis=1) @ weight + bias)

    program = plan_module(module, settings()).program
    assert {len(x.args) for x in calls(program.steps)} == {1}
    for outputs in three_ways(module, [number(0), left, right, leaf, words]):
        np.testing.assert_allclose(outputs[0], wanted(0), rtol=0, atol=1e-5)


def test_arguments_that_are_the_same_throughout_are_copied_once_where_the_entry_has_several() -> None:
    m = ModuleBuilder()
    vector = ("float32", (4,))

    @m.function([INT, vector, vector], [vector])
    def power(b: FunctionBuilder, n: Tensor, x: Tensor, y: Tensor) -> Any:
        def deeper() -> Any:
            return b.op("Mul", x, b.call(power, b.op("Sub", n, 1), x, b.op("Neg", y)))

        return b.cond(b.op("Greater", n, 0), deeper, lambda: y)

    @m.entry([vector, vector])
    def main(b: FunctionBuilder, x: Tensor, y: Tensor) -> Any:
        return b.call(power, 3, x, y), b.call(power, 2, y, x)

    x, y = (np.random.default_rng(n).standard_normal(4).astype(np.float32) for n in range(2))
    module = m.build()
    for outputs in three_ways(module, [x, y]):
        np.testing.assert_allclose(outputs[0], -(x**3) * y, rtol=1e-5)
        np.testing.assert_allclose(outputs[1], y**2 * x, rtol=1e-5)
    program = plan_module(module, settings()).program
    assert [x.source for x in program.body if isinstance(x, HostCopy)] == ["x", "y"]
    assert {len(x.args) for x in calls(program.steps)} == {2}


def test_swapped_and_repeated_parameters_and_results() -> None:
    """Greatest common divisor: both parameters change places, and results are parameters."""
    m = ModuleBuilder()

    @m.function([INT, INT], [INT, INT, INT])
    def gcd(b: FunctionBuilder, a: Tensor, c: Tensor) -> Any:
        return b.cond(b.op("Equal", c, 0), lambda: (a, c, a), lambda: b.call(gcd, c, b.op("Mod", a, c)))

    @m.entry([INT, INT])
    def main(b: FunctionBuilder, a: Tensor, c: Tensor) -> Any:
        return b.call(gcd, a, c)

    for outputs in three_ways(m.build(), [number(1071), number(462)]):
        assert list(map(int, outputs)) == [21, 0, 21]


def test_a_call_under_loops_and_branches_keeps_their_counters() -> None:
    """Paths in a grid, counted by trying every number of steps to the right at each level."""
    m = ModuleBuilder()

    @m.function([INT, INT], [INT])
    def paths(b: FunctionBuilder, rows: Tensor, columns: Tensor) -> Any:
        def deeper() -> Any:
            def step(k: Tensor, total: Tensor) -> Any:
                inner = b.call(paths, b.op("Sub", rows, 1), b.op("Sub", columns, k))
                return b.op("Add", total, inner)

            return b.for_loop(b.op("Add", columns, 1), step, np.asarray(0))

        return b.cond(b.op("Equal", rows, 0), lambda: 1, deeper)

    @m.entry([INT])
    def main(b: FunctionBuilder, n: Tensor) -> Any:
        def again(n: Tensor, total: Tensor) -> Any:
            return b.op("Sub", n, 1), b.op("Add", total, b.call(paths, n, n))

        return b.while_loop(lambda n, _: b.op("Greater", n, 0), again, n, np.asarray(0))

    def wanted(rows: int, columns: int) -> int:
        return 1 if rows == 0 else sum(wanted(rows - 1, columns - k) for k in range(columns + 1))

    for outputs in three_ways(m.build(), [number(4)]):
        assert int(outputs[1]) == sum(wanted(n, n) for n in range(1, 5))


def test_calls_that_nobody_expanded_are_made() -> None:
    """Rewrites of control flow may leave functions that do not recurse, and one that only passes on what it gets."""
    text = """
module main {
  func main(x: float32[4]) {
    call a = twice(x) -> (a: float32[4])
    call b = same(a, x) -> (b: float32[4], c: float32[4])
    return (b, c)
  }
  func twice(x: float32[4]) {
    tensor y for (i < 4) {
      %0 = x[i]
      body %0 * 2.0
      write y: float32[4] [i]
    }
    call z = same(y, y) -> (z: float32[4], w: float32[4])
    return (z)
  }
  func same(x: float32[4], y: float32[4]) {
    return (y, x)
  }
}
"""
    module = parse_module(text.lstrip())
    verify_module(module)
    x = np.arange(4, dtype=np.float32)
    assert set(plan_module(module, settings()).program.procedures) == {"twice", "same"}
    for outputs in three_ways(module, [x]):
        assert [y.tolist() for y in outputs] == [x.tolist(), (2 * x).tolist()]


def test_the_bound_ends_a_run_and_leaves_the_program_usable() -> None:
    module = count_down(depth=8)
    program = plan_module(module, settings()).program
    wanted = r"The recursion of function 'total' is deeper than its bound of 8 calls\. Raise the bound"
    for call in (lambda n: interpret(module, [n]), lambda n: run_tasks(program, [n])):
        assert int(call(number(7))[0]) == 28
        with pytest.raises(InputError, match=wanted):
            call(number(8))
    with loaded(program, settings()) as native:
        for n in (7, 8, 100, 7, 0):
            out = np.full((), -1, np.int64)
            if n < 8:
                native.run([number(n)], [out])
                assert int(out) == n * (n + 1) // 2
            else:
                with pytest.raises(InputError, match=wanted):
                    native.run([number(n)], [out])


def test_half_a_million_calls_take_no_native_stack() -> None:
    """A thread has eight megabytes of it, as a rule: sixteen bytes for each of these calls."""
    depth = 500_000
    program = plan_module(count_down(depth + 1), settings()).program
    out = np.zeros((), np.int64)
    with loaded(program, settings()) as native:
        native.run([number(depth)], [out])
    assert int(out) == depth * (depth + 1) // 2


def test_the_interpreters_do_not_recurse_in_python() -> None:
    module = count_down(6000)
    program = plan_module(module, settings()).program
    assert int(interpret(module, [number(5000)])[0]) == 5000 * 5001 // 2
    assert int(run_tasks(program, [number(2000)])[0]) == 2000 * 2001 // 2


def test_frames_beyond_the_memory_of_the_device_are_refused() -> None:
    with pytest.raises(InputError, match=r"frames of \d+ bytes.* Lower the module's depth to at most"):
        plan_module(fibonacci(depth=1 << 40), settings())
