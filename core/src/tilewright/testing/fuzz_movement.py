"""The fuzzer's data movements, contractions, windows and normalisations."""

from __future__ import annotations

import math

import numpy as np

from tilewright.testing.fuzz_operators import Draft, Draw, drawer


@drawer("Transpose")
def _transpose(draw: Draw, kind: str) -> Draft:
    x = draw.any(1)
    return Draft(kind, [x], attributes={"perm": draw.random.sample(range(x.rank), x.rank)}, exact=True)


@drawer("Reshape", "Flatten", "Size", "Shape")
def _reshape(draw: Draw, kind: str) -> Draft:
    x = draw.any(1)
    if kind == "Flatten":
        return Draft(kind, [x], attributes={"axis": draw.random.randint(0, x.rank)}, exact=True)
    if kind in ("Size", "Shape"):
        return Draft(kind, [x], exact=True)
    size = x.data.size
    shape: list[int] = []
    while size > 1 and len(shape) < 3:
        shape.append(draw.random.choice([n for n in range(1, size + 1) if size % n == 0]))
        size //= shape[-1]
    return Draft(kind, [x, np.asarray([*shape, -1 if x.data.size else 0], np.int64)], exact=True)


@drawer("Squeeze", "Unsqueeze")
def _unit(draw: Draw, kind: str) -> Draft:
    if kind == "Unsqueeze":
        x = draw.any(0, 4)
        return Draft(kind, [x, np.asarray([draw.random.randint(-x.rank - 1, x.rank)], np.int64)], exact=True)
    x = draw.one(lambda t: 1 in t.data.shape)
    return Draft(kind, [x, np.asarray([x.data.shape.index(1)], np.int64)], exact=True)


@drawer("Concat")
def _concat(draw: Draw, kind: str) -> Draft:
    x = draw.any(1)
    axis = draw.axis(x) % x.rank

    def fits(y: object) -> bool:
        other = y.data  # type: ignore[attr-defined]
        rest = [n for d, n in enumerate(x.data.shape) if d != axis]
        return (
            other.dtype == x.data.dtype
            and other.ndim == x.rank
            and [n for d, n in enumerate(other.shape) if d != axis] == rest
        )

    return Draft(kind, [x, draw.one(fits), draw.one(fits)], attributes={"axis": axis}, exact=True)


@drawer("Split")
def _split(draw: Draw, kind: str) -> Draft:
    x = draw.one(lambda t: any(n >= 2 for n in t.data.shape))
    axis = draw.random.choice([d for d, n in enumerate(x.data.shape) if n >= 2])
    first = draw.random.randint(1, x.data.shape[axis] - 1)
    return Draft(kind, [x, np.asarray([first, x.data.shape[axis] - first])], 2, {"axis": axis}, exact=True)


@drawer("Slice")
def _slice(draw: Draw, kind: str) -> Draft:
    x = draw.any(1)
    axes = draw.axes(x)
    # In range: for a step back from before the first element the reference does as NumPy, not as ONNX's text says.
    starts = [draw.random.randint(-x.data.shape[a], x.data.shape[a] - 1) for a in axes]
    ends = [draw.random.choice([*range(-7, 8), 2**31]) for _ in axes]
    steps = [draw.random.choice([-2, -1, 1, 1, 2, 3]) for _ in axes]
    return Draft(kind, [x, *(np.asarray(v, np.int64) for v in (starts, ends, axes, steps))], exact=True)


@drawer("Pad")
def _pad(draw: Draw, kind: str) -> Draft:
    x = draw.float(1)
    mode = draw.random.choice(["constant", "constant", "edge", "reflect", "wrap"])
    most = [min(n - 1, 3) if mode == "reflect" else min(n, 3) for n in x.data.shape]
    pads = [draw.random.randint(-1 if mode == "constant" and n > 2 else 0, max(n, 0)) for n in (*most, *most)]
    value = np.asarray(draw.random.uniform(-2, 2), np.float32) if mode == "constant" else None
    return Draft(kind, [x, np.asarray(pads, np.int64), value], attributes={"mode": mode}, exact=True)


@drawer("Tile", "Expand")
def _tile(draw: Draw, kind: str) -> Draft:
    x = draw.any(1, 4)
    if kind == "Tile":
        return Draft(kind, [x, draw.rng.integers(1, 4, x.rank)], exact=True)
    shape = [draw.random.randint(1, 4) if n == 1 else n for n in x.data.shape]
    return Draft(kind, [x, np.asarray([*([2] * draw.random.randint(0, 1)), *shape], np.int64)], exact=True)


@drawer("Gather", "GatherElements", "ScatterElements", "GatherND")
def _indexed(draw: Draw, kind: str) -> Draft:
    x = draw.float(1)
    axis = draw.axis(x)
    extent = x.data.shape[axis]
    if kind == "Gather":
        shape = [draw.random.randint(1, 3) for _ in range(draw.random.randint(0, 2))]
        return Draft(kind, [x, draw.rng.integers(-extent, extent, shape)], attributes={"axis": axis}, exact=True)
    if kind == "GatherND":
        depth = draw.random.randint(1, x.rank)
        at = np.stack([draw.rng.integers(-n, n, (3,)) for n in x.data.shape[:depth]], -1)
        return Draft(kind, [x, at], exact=True)
    if kind == "GatherElements":
        return Draft(kind, [x, draw.rng.integers(-extent, extent, x.data.shape)], attributes={"axis": axis}, exact=True)
    # Each element once, so that the order does not matter.
    at = np.argsort(draw.rng.random(x.data.shape), axis=axis)
    return Draft(kind, [x, at, draw.normal(*x.data.shape)], attributes={"axis": axis}, exact=True)


@drawer("OneHot")
def _one_hot(draw: Draw, kind: str) -> Draft:
    indices = draw.rng.integers(-4, 4, [draw.random.randint(1, 3) for _ in range(draw.random.randint(1, 2))])
    values = np.asarray([draw.random.uniform(-1, 0), draw.random.uniform(0, 1)], np.float32)
    return Draft(
        kind, [indices, np.asarray(4, np.int64), values], attributes={"axis": draw.random.choice([-1, 0])}, exact=True
    )


@drawer("DepthToSpace", "SpaceToDepth")
def _blocks(draw: Draw, kind: str) -> Draft:
    deep = kind == "DepthToSpace"
    shape = (1, 8, 3, 2) if deep else (2, 2, 4, 6)
    mode = {"mode": draw.random.choice(["DCR", "CRD"])} if deep else {}
    return Draft(kind, [draw.normal(*shape)], attributes={"blocksize": 2, **mode}, exact=True)


@drawer("MatMul")
def _matmul(draw: Draw, kind: str) -> Draft:
    x = draw.float(1)
    k = x.data.shape[-1]
    shape = draw.random.choice(
        [(k,), (k, draw.random.randint(1, 20)), (*x.data.shape[:-2], k, 3) if x.rank > 2 else (k, 4)]
    )
    return Draft(kind, [x, draw.normal(*shape) / math.sqrt(k)])


@drawer("Gemm")
def _gemm(draw: Draw, kind: str) -> Draft:
    x = draw.float(2, 2)
    a, b, n = draw.random.randint(0, 1), draw.random.randint(0, 1), draw.random.randint(1, 9)
    m, k = x.data.shape[::-1] if a else x.data.shape
    weight = draw.normal(n, k) if b else draw.normal(k, n)
    bias = draw.random.choice([None, draw.normal(n), draw.normal(m, 1)])
    factors = {"alpha": draw.random.uniform(0.5, 2), "beta": draw.random.uniform(0.5, 2)}
    return Draft(kind, [x, weight, bias], attributes={"transA": a, "transB": b, **factors})


@drawer("Einsum")
def _einsum(draw: Draw, kind: str) -> Draft:
    x = draw.float(2, 2)
    m, k = x.data.shape
    text, other = draw.random.choice(
        [("ij,jk->ik", (k, 3)), ("ij,ij->i", (m, k)), ("ij,kj->ki", (2, k)), ("ij,j->", (k,))]
    )
    return Draft(kind, [x, draw.normal(*other)], attributes={"equation": text})


@drawer("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool")
def _window(draw: Draw, kind: str) -> Draft:
    rank = draw.random.randint(1, 2)
    group = draw.random.choice([1, 1, 2])
    channels = group * draw.random.randint(1, 3)
    x = draw.normal(draw.random.randint(1, 2), channels, *(draw.random.randint(5, 9) for _ in range(rank)))
    if kind.startswith("Global"):
        return Draft(kind, [x], exact=kind == "GlobalMaxPool")
    kernel = [draw.random.randint(1, 3) for _ in range(rank)]
    attributes: dict[str, object] = {"strides": [draw.random.randint(1, 3) for _ in range(rank)]}
    if kind in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
        attributes["dilations"] = [draw.random.randint(1, 2) for _ in range(rank)]
    reach = [(k - 1) // 2 for k in kernel]
    attributes["pads"] = [draw.random.randint(0, r) for r in (*reach, *reach)]
    if "Pool" in kind:
        attributes["kernel_shape"] = kernel
        if kind == "AveragePool":
            attributes["count_include_pad"] = draw.random.randint(0, 1)
        return Draft(kind, [x], attributes=attributes, exact=kind == "MaxPool")
    out = draw.random.randint(1, 3)
    shape = (out * group, channels // group) if kind == "Conv" else (channels, out)
    bias = draw.normal(out * group) if draw.random.random() < 0.5 else None
    return Draft(kind, [x, draw.normal(*shape, *kernel), bias], attributes={**attributes, "group": group})


@drawer(
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "LpNormalization",
)
def _normalisation(draw: Draw, kind: str) -> Draft:
    x = draw.float(3, 4) if kind != "LayerNormalization" else draw.float(1)
    channels = x.data.shape[1] if x.rank > 1 else 1
    match kind:
        case "BatchNormalization":
            rest = [draw.positive(channels), draw.normal(channels), draw.normal(channels), draw.positive(channels)]
            return Draft(kind, [x, *rest], attributes={"epsilon": 1e-3})
        case "InstanceNormalization":
            return Draft(kind, [x, draw.positive(channels), draw.normal(channels)], attributes={"epsilon": 1e-2})
        case "LayerNormalization":
            axis = draw.random.randint(0, x.rank - 1)
            shape = x.data.shape[axis:]
            return Draft(
                kind, [x, draw.positive(*shape), draw.normal(*shape)], attributes={"axis": axis, "epsilon": 1e-2}
            )
        case "LpNormalization":
            # The reference takes no absolute values for p = 1. (Its LRN is wrong too, and not drawn.)
            return Draft(kind, [x], attributes={"axis": draw.axis(x), "p": 2})
    return Draft(kind, [draw.normal(2, 3, 4, 5)])


@drawer("Hardmax")
def _hardmax(draw: Draw, kind: str) -> Draft:
    x = draw.one(lambda t: t.is_float and t.exact and t.rank >= 1)
    return Draft(kind, [x], attributes={"axis": draw.axis(x)}, exact=True)


@drawer("EyeLike")
def _eye(draw: Draw, kind: str) -> Draft:
    return Draft(kind, [draw.float(2, 2)], attributes={"k": draw.random.randint(-2, 2)}, exact=True)
