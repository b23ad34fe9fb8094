"""A mixture of experts: each token's feed-forward network is two of eight (Lepikhin et al., 2021).

Experts have a fixed capacity, as in V-MoE (Riquelme et al., 2021): each takes the tokens that weigh it most, and what
is routed beyond that is dropped. An expert that few tokens chose fills its places with tokens of weight 0.
"""

from __future__ import annotations

import numpy as np

from benchmarks.models.graphs.layers import HE, gemm
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def moe_block(
    seed: int = 0,
    batch: int = 1,
    sequence: int = 4,
    hidden: int = 768,
    inner: int = 3072,
    experts: int = 8,
    chosen: int = 2,
    spare: float = 2.0,
) -> Case:
    """`batch · sequence` tokens of width `hidden`, in the sizes of Switch-Base (Fedus et al., 2022).

    Args:
        inner: width within each expert.
        chosen: experts of each token.
        spare: capacity of an expert over the mean number of tokens that choose it.
    """
    net = Net("moe_block", seed)
    tokens = batch * sequence
    capacity = min(int(np.ceil(spare * chosen * tokens / experts)), tokens)
    x = net.normal("tokens", tokens, hidden)
    scores = net.op("MatMul", x, net.weight(hidden, experts, scale=hidden**-0.5))
    best, which = net.op("TopK", scores, net.const([chosen]), count=2, axis=1)
    nothing = net.const(np.zeros((tokens, experts), np.float32))
    shares = net.op("ScatterElements", nothing, which, net.op("Softmax", best, axis=1), axis=1)
    # A row for each expert, then its tokens.
    weights, places = net.op("TopK", net.op("Transpose", shares, perm=[1, 0]), net.const([capacity]), count=2, axis=1)
    weighted = net.op("Split", net.op("Unsqueeze", weights, net.const([2])), count=experts, axis=0)
    rows = net.op("Split", places, count=experts, axis=0)
    zero = net.const([0])
    results = []
    for share, row in zip(weighted, rows, strict=True):
        y = net.op("Gather", x, net.op("Squeeze", row, zero), axis=0)
        y = gemm(net, net.op("Relu", gemm(net, y, hidden, inner, HE)), inner, hidden)
        results.append(net.op("Mul", y, net.op("Squeeze", share, zero)))
    flat = net.op("Reshape", places, net.const([experts * capacity, 1]))
    none = net.const(np.zeros((tokens, hidden), np.float32))
    mixed = net.op("ScatterND", none, flat, net.op("Concat", *results, axis=0), reduction="add")
    return net.case({"mixed": net.op("Add", x, mixed)})
