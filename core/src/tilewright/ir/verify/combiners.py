"""Laws of combiners: dtypes of the states, and an identity that is neutral on both sides."""

from __future__ import annotations

import functools

import numpy as np

from tilewright.interpret.evaluate import Array, evaluate_all
from tilewright.ir import dtypes
from tilewright.ir.ops import Combiner
from tilewright.ir.verify.exprs import ExprChecker
from tilewright.ir.verify.laws import Place

IDENTITY = "the identity of a combiner is neutral on both sides"
STATES = "a combiner has one identity and one combined value of the same dtype per state"
_SAMPLES = 64


def check_combiner(combiner: Combiner, place: Place) -> None:
    """Refuses a combiner that is ill-typed, or whose identity changes some sampled state."""
    place = place.at(f"combiner {combiner.name}")
    if not combiner.identity or len(combiner.identity) != len(combiner.combine):
        found = f"{len(combiner.identity)} identities and {len(combiner.combine)} combined values"
        raise place.broken(STATES, found)
    sides = {f"{side}{i}": dtype for i, dtype in enumerate(combiner.dtypes) for side in "ab"}
    checker = ExprChecker(sides)
    for number, (merged, dtype) in enumerate(zip(combiner.combine, combiner.dtypes, strict=True)):
        checker.check(combiner.identity[number], place.at(f"identity {number}"))
        checker.check(merged, place.at(f"state {number}"), dtype)
    problem = _identity_problem(combiner)
    if problem:
        raise place.broken(IDENTITY, problem)


@functools.lru_cache(maxsize=1024)
def _identity_problem(combiner: Combiner) -> str:
    random = np.random.default_rng(0)
    states = [_sample(random, dtype, len(combiner.dtypes) == 1) for dtype in combiner.dtypes]
    neutral = [np.full(_SAMPLES, x.value, dtypes.to_numpy(x.dtype)) for x in combiner.identity]
    for first, left, right in (("first", neutral, states), ("second", states, neutral)):
        env = {f"a{i}": x for i, x in enumerate(left)} | {f"b{i}": x for i, x in enumerate(right)}
        for number, merged in enumerate(evaluate_all(combiner.combine, env)):
            wrong = np.flatnonzero(~_close(np.broadcast_to(merged, (_SAMPLES,)), states[number]))
            if wrong.size:
                at = int(wrong[0])
                given = ", ".join(str(x[at]) for x in states)
                return f"as the {first} operand it turns state {number} of ({given}) into {merged[at]}"
    return ""


def _sample(random: np.random.Generator, dtype: str, alone: bool) -> Array:
    """States as a reduction may meet them: finite floats, both booleans, integers (counts and places beside others)."""
    if dtype == "bool":
        return random.random(_SAMPLES) < 0.5
    if dtypes.is_float(dtype):
        return (random.standard_normal(_SAMPLES) * 4).astype(dtypes.to_numpy(dtype))
    low = -100 if alone and dtype in dtypes.SIGNED else 1
    return random.integers(low, 100, _SAMPLES).astype(dtypes.to_numpy(dtype))


def _close(found: Array, wanted: Array) -> Array:
    """Equal up to a few roundings: a merge with the identity may multiply and divide by the same number."""
    if found.dtype.kind in "biu":
        return np.equal(found, wanted)
    tolerance = {8: 1e-14, 4: 1e-6}.get(found.dtype.itemsize, 2e-2)
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return np.abs(a - b) <= tolerance * np.abs(b)
