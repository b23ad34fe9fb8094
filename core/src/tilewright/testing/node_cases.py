"""ONNX's own node tests, run through the front end and any executor.

The cases come from `onnx.backend.test`, which generates them in memory: per operator one-node models with
inputs and expected outputs: tensors, strings, sequences and optionals.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import UnsupportedError
from tilewright.frontend import load
from tilewright.frontend.fold import RANDOM
from tilewright.frontend.steering import specialised
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.verify import verify_module
from tilewright.testing.node_values import difference, loaded

Array = npt.NDArray[Any]
Execute = Callable[[Module, Sequence[Array]], Sequence[Array]]
RunWhole = Callable[[onnx.ModelProto, Mapping[str, Sequence[int]], Mapping[str, Any]], tuple[Sequence[Any], bool]]
"""Takes a model, shapes of inputs and their values; gives the outputs, and whether the evaluator had a part in them."""

Kind = Literal["native", "specialised", "constant", "fallback", "declined", "wrong"]

KINDS: tuple[Kind, ...] = ("native", "specialised", "constant", "fallback", "declined", "wrong")

_WIDER: dict[str, tuple[float, float]] = {
    # Expected values that NumPy computed with a single-precision FFT; they are off by 2e-7 from the exact ones.
    "test_dft_inverse": (0.0, 5e-7),
    "test_dft_inverse_opset19": (0.0, 5e-7),
    # Expected values rounded to float16 after every step; two of 192 elements are two units in the last place away
    # from ours, which are nearer to the exact ones.
    "test_attention_4d_causal_fp16": (2**-9, 0.0),
    "test_attention_4d_causal_fp16_expanded": (2**-9, 0.0),
}
"""Cases whose expected outputs are less exact than their tolerance (relative, absolute) asks for."""


@attrs.frozen
class Case:
    """One node test.

    Args:
        operator: type of the operator under test.
        data: pairs of inputs and expected outputs.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    data: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]
    rtol: float
    atol: float


@attrs.frozen
class Outcome:
    """What became of a case.

    Args:
        kind: native: compiled with all inputs open; specialised: with inputs that steer shapes bound to their
            values; constant: nothing was left to compute after that; fallback: the reference evaluator ran a part of
            it; declined: a clear error; wrong: another answer, or a failure that is no clear error.
        detail: the error or the difference.
    """

    name: str
    operator: str
    kind: Kind
    detail: str = ""


@cache
def cases() -> tuple[Case, ...]:
    """Every node test of the installed onnx."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = node.collect_testcases(None)
    made = []
    for case in found:
        if case.model is None or case.data_sets is None:
            continue
        data = tuple((tuple(x), tuple(y)) for x, y in case.data_sets)
        operator = _operator(case.name, case.model)
        made.append(Case(case.name, operator, case.model, data, case.rtol, case.atol))
    return tuple(sorted(made, key=lambda x: x.name))


def _operator(name: str, model: onnx.ModelProto) -> str:
    """The operator under test; an expanded case names it in the test's name only."""
    if len(model.graph.node) == 1:
        return str(model.graph.node[0].op_type)
    spelt = name.removeprefix("test_").replace("_", "").lower()
    known = sorted({s.name for s in onnx.defs.get_all_schemas()}, key=len, reverse=True)
    return next((x for x in known if spelt.startswith(x.lower())), str(model.graph.node[-1].op_type))


def run_case(case: Case, execute: Execute, whole: RunWhole | None = None) -> Outcome:
    """Loads and executes a case and compares with the expected outputs: dtype, shape, and values by its
    tolerances.

    Args:
        whole: runs what the front end does not take as it is.
    """
    kind: Kind = "native"
    try:
        for inputs, expected in case.data:
            names = [x.name for x in case.model.graph.input]
            feeds = dict(zip(names, map(loaded, inputs), strict=False))
            shapes = _open_shapes(case.model, feeds)
            try:
                outputs, kind = _compiled(case, feeds, shapes, execute)
            except UnsupportedError:
                if whole is None:
                    raise
                outputs, fell_back = whole(case.model, shapes, feeds)
                kind = "fallback" if fell_back else "specialised"
            for info, mine, theirs in zip(case.model.graph.output, outputs, map(loaded, expected), strict=False):
                found = difference(mine, theirs, partial(_compare, case=case))
                if found:
                    return Outcome(case.name, case.operator, "wrong", f"{info.name}: {found}")
    except UnsupportedError as error:
        return Outcome(case.name, case.operator, "declined", str(error))
    except Exception as error:  # noqa: BLE001 (a crash is an outcome of the case)
        return Outcome(case.name, case.operator, "wrong", f"{type(error).__name__}: {error}")
    return Outcome(case.name, case.operator, kind)


def _compiled(
    case: Case, feeds: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], execute: Execute
) -> tuple[Sequence[Any], Kind]:
    """The outputs of the whole model as one program, and how it was made."""
    module, bound = specialised(partial(load, case.model, shapes), feeds)
    given = [x for name, x in feeds.items() if name not in bound]
    kind: Kind = "native"
    if bound:
        kind = "specialised" if any(op.inputs for op in module.main.body.ops) and given else "constant"
    verify_module(module)
    return delivered(module.output_names, module.lengths, execute(module, given)), kind


def _open_shapes(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """The shapes of the arrays for inputs that are declared without fixed sizes."""
    return {
        info.name: feeds[info.name].shape
        for info in model.graph.input
        if isinstance(feeds.get(info.name), np.ndarray)
        and any(not d.HasField("dim_value") for d in info.type.tensor_type.shape.dim)
    }


def _compare(mine: Array, theirs: Array, case: Case) -> str:
    if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
        return f"{mine.dtype} {list(mine.shape)} instead of {theirs.dtype} {list(theirs.shape)}"
    if any(x.op_type in RANDOM for x in case.model.graph.node):
        strange = int((~np.isin(mine, theirs)).sum())  # the results are zeros and ones, and chance says which
        return f"{strange} of {mine.size} elements can never come" if strange else ""
    if mine.dtype.kind not in "fV":
        wrong = int((mine != theirs).sum())
        return f"{wrong} of {mine.size} elements differ" if wrong else ""
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    # As ONNX's own runner does for bfloat16.
    rtol = max(case.rtol, 2**-6) if mine.dtype.name == "bfloat16" else case.rtol
    wider = _WIDER.get(case.name, (0.0, 0.0))
    close = np.isclose(a, b, rtol=max(rtol, wider[0]), atol=max(case.atol, wider[1]), equal_nan=True)
    if close.all():
        return ""
    worst = np.nanmax(np.abs(np.where(close, 0, a - b)))
    return f"{int((~close).sum())} of {mine.size} elements differ, by up to {worst:.3g}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many cases there were and how many of each kind, as text."""
    counts = Counter(x.kind for x in outcomes)
    return f"{len(outcomes)} cases, " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))


def table(outcomes: Iterable[Outcome]) -> str:
    """Counts per operator and kind, as text."""
    rows: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = rows.setdefault(outcome.operator, {})
        row[outcome.kind] = row.get(outcome.kind, 0) + 1
    lines = [f"{'operator':32}" + "".join(f"{kind:>13}" for kind in KINDS)]
    total = dict.fromkeys(KINDS, 0)
    for operator, row in sorted(rows.items()):
        lines.append(f"{operator:32}" + "".join(f"{row.get(kind, 0):>13}" for kind in KINDS))
        for kind in KINDS:
            total[kind] += row.get(kind, 0)
    lines.append(f"{'all':32}" + "".join(f"{total[kind]:>13}" for kind in KINDS))
    return "\n".join(lines)
