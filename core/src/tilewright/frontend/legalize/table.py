"""The table of legalisation rules: which function turns which ONNX operator into tensor operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from tilewright.errors import InternalError, TilewrightError
from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.node import Node

Result = Tensor | Sequence[Tensor | None]
Legalizer = Callable[[Builder, Node], Result]


@attrs.frozen
class Rule:
    """One meaning of one ONNX operator.

    Args:
        op_type: the operator; with a domain before a dot when it is not ONNX's own.
        function: builds the operator; returns its outputs in ONNX's order.
        since: first opset that the function is right for; the rule with the highest one up to the model's is used.
        fault: makes the error for a fault of the rule, out of a sentence that says what is wrong.
    """

    op_type: str
    function: Legalizer
    since: int = 1
    fault: Callable[[str], TilewrightError] = InternalError


class Table:
    """Rules by operator. A table is an ordinary object: extend a copy of the built-in one to add operators."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Adds a rule. Raises InternalError when one for the same operator and opset is there already."""
        known = self._rules.setdefault(rule.op_type, [])
        if any(x.since == rule.since for x in known):
            raise InternalError(f"Two legalisation rules are given for {rule.op_type} since opset {rule.since}.")
        known.append(rule)
        known.sort(key=lambda x: x.since)

    def extended(self, rules: Iterable[Rule]) -> Table:
        """A copy with more rules."""
        return Table([*(x for known in self._rules.values() for x in known), *rules])

    def find(self, domain: str, op_type: str, version: int) -> Rule | None:
        """The rule for an operator at an opset."""
        fitting = [x for x in self._rules.get(f"{domain}.{op_type}" if domain else op_type, ()) if x.since <= version]
        return fitting[-1] if fitting else None

    def covers(self, domain: str, op_type: str, version: int) -> bool:
        """Whether there is a rule, so that ONNX's function body is not needed."""
        return self.find(domain, op_type, version) is not None

    def operators(self) -> tuple[str, ...]:
        """Names of all operators with a rule."""
        return tuple(sorted(self._rules))


class Family:
    """Collects the rules of one module: `rule = Family()`, then `@rule("Conv")` before each function."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def __call__(self, *op_types: str, since: int = 1) -> Callable[[Legalizer], Legalizer]:
        def register(function: Legalizer) -> Legalizer:
            self.rules.extend(Rule(x, function, since) for x in op_types)
            return function

        return register
