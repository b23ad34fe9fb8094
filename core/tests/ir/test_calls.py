"""Functions that call each other: text, documents, keys, laws, meaning, and the rewrites that prepare them."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from tilewright.errors import InputError, UnsupportedError, VerifyError
from tilewright.interpret.tensor import interpret
from tilewright.ir import serial
from tilewright.ir.calls import call_graph, reachable, recursive
from tilewright.ir.keys import structural_key
from tilewright.ir.module import DEPTH, Function, Module
from tilewright.ir.text import parse_module, print_module
from tilewright.ir.verify import verify_module
from tilewright.rewrites import calls as rewrite
from tilewright.rewrites.calls import expand_calls, reached, separate_entry, unique_names

PARITY = """\
module main {
  depth 9
  const one: int64[] = [1]
  func main(n: int64[]) {
    call answer = even(n) -> (answer: bool[])
    return (answer)
  }
  func even(n: int64[]) {
    tensor stop for () {
      %0 = n[]
      body %0 == 0
      write stop: bool[] []
    }
    if answer by stop -> (answer: bool[]) {
      then () {
        return (stop)
      }
      else () {
        call less = before(n) -> (less: int64[])
        call deeper = odd(less) -> (deeper: bool[])
        return (deeper)
      }
    }
    return (answer)
  }
  func odd(n: int64[]) {
    tensor go for () {
      %0 = n[]
      body %0 > 0
      write go: bool[] []
    }
    if answer by go -> (answer: bool[]) {
      then () {
        call less = before(n) -> (less: int64[])
        call deeper = even(less) -> (deeper: bool[])
        return (deeper)
      }
      else () {
        return (go)
      }
    }
    return (answer)
  }
  func before(n: int64[]) {
    tensor less for () {
      %0 = n[]
      %1 = one[]
      body %0 - %1
      write less: int64[] []
    }
    return (less)
  }
  func unused(n: int64[]) {
    return (n)
  }
}
"""


def parity() -> Module:
    return parse_module(PARITY)


def holds(module: Module, n: int) -> bool:
    return bool(interpret(module, [np.asarray(n, np.int64)])[0])


def test_functions_that_call_each_other_read_back() -> None:
    module = parity()
    verify_module(module)
    assert module.depth == 9
    assert parse_module(print_module(module)) == module
    plain = parse_module(print_module(module).replace("  depth 9\n", ""))
    assert plain.depth == DEPTH
    assert "depth" not in print_module(plain)
    contents = {x.digest: x for x in module.constants.values()}
    assert serial.load(serial.dump(module), Module, contents) == module


def test_who_calls_whom() -> None:
    module = parity()
    graph = call_graph(module)
    assert graph["even"] == ("before", "odd")
    assert reachable(graph, "main") == ("even", "before", "odd")
    assert set(reachable(graph, "odd")) == {"even", "odd", "before"}
    assert recursive(module) == {"even", "odd"}


def test_keys_number_functions_and_end_on_recursion() -> None:
    module = parity()
    other = print_module(module).replace("even", "gerade").replace("odd", "ungerade")
    assert structural_key(parse_module(other)) == structural_key(module)
    for old, new in (("%0 - %1", "%0 + %1"), ("= odd(", "= even("), ("depth 9", "depth 8")):
        assert structural_key(parse_module(print_module(module).replace(old, new))) != structural_key(module), old


@pytest.mark.parametrize(
    ("old", "new", "law"),
    [
        ("= odd(less)", "= nothing(less)", "there is no function 'nothing'"),
        ("= odd(less)", "= odd(less, n)", "2 operands for 1"),
        ("= odd(less)", "= odd(stop)", "operand 0, 'stop', is bool"),
        ("= odd(less) -> (deeper: bool[])", "= odd(less) -> (deeper: bool[], more: bool[])", "2 outputs for 1"),
        ("depth 9", "depth 0", "the module's depth is 0"),
    ],
)
def test_laws_of_calls(old: str, new: str, law: str) -> None:
    with pytest.raises(VerifyError, match=law.replace("[", r"\[")):
        verify_module(parse_module(print_module(parity()).replace(old, new)))


def test_a_function_does_not_see_the_values_of_another() -> None:
    module = parity()
    even, odd = (module.functions[x].body for x in ("even", "odd"))
    stolen = attrs.evolve(odd, results=(even.ops[0].outputs[0],))  # type: ignore[arg-type]
    broken = attrs.evolve(module, functions={**module.functions, "odd": Function("odd", stolen)})
    with pytest.raises(VerifyError, match="'stop' is not defined here"):
        verify_module(broken)


def test_the_meaning_and_its_bound() -> None:
    module = parity()
    # Nine calls of `even` and `odd` for 8; `before` does not recurse and does not count.
    assert [holds(module, n) for n in range(9)] == [n % 2 == 0 for n in range(9)]
    with pytest.raises(InputError, match="of function 'odd' is deeper than its bound of 9 calls"):
        holds(module, 9)


def test_calls_that_cannot_recurse_are_expanded() -> None:
    module = expand_calls(parity())
    verify_module(module)
    assert set(module.functions) == {"main", "even", "odd"}
    assert [holds(module, n) for n in range(7)] == [n % 2 == 0 for n in range(7)]
    assert unique_names(module) == module


def test_an_expansion_that_would_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "LARGEST", 100)
    lines = ["module main {", "func f0(x: int64[]) {", "tensor y for () {", "%0 = x[]", "body %0 + 1"]
    lines += ["write y: int64[] []", "}", "return (y)", "}"]
    for n in range(1, 10):
        lines += [f"func f{n}(x: int64[]) {{", f"call a = f{n - 1}(x) -> (a: int64[])"]
        lines += [f"call b = f{n - 1}(a) -> (b: int64[])", "return (b)", "}"]
    lines += ["func main(x: int64[]) {", "call r = f9(x) -> (r: int64[])", "return (r)", "}", "}"]
    with pytest.raises(UnsupportedError, match="more than 100 operators"):
        expand_calls(parse_module("\n".join(lines)))


def test_names_become_unique_and_the_rest_stays() -> None:
    module = unique_names(reached(parity()))
    verify_module(module)
    names = [x.name for f in module.functions.values() for x in rewrite.defined(f.body)]
    assert len(set(names)) == len(names)
    assert "unused" not in module.functions
    assert [holds(module, n) for n in range(7)] == [n % 2 == 0 for n in range(7)]


def test_an_entry_that_calls_itself_gets_one_that_does_not() -> None:
    text = print_module(parity()).replace("module main", "module even")
    module = separate_entry(parse_module(text))
    verify_module(module)
    assert module.entry not in recursive(module)
    assert holds(module, 6)
    assert not holds(module, 5)
    assert separate_entry(parity()) == parity()
