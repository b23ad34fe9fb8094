"""BERT: embeddings, post-normalised encoder layers, pooler (Devlin et al., 2019)."""

from __future__ import annotations

import numpy as np

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net, attention


def bert(
    seed: int = 0,
    opset: int = 17,
    layers: int = 1,
    batch: int = 2,
    sequence: int = 16,
    hidden: int = 64,
    heads: int = 4,
    vocabulary: int = 100,
) -> Case:
    """An encoder; `hidden=768, heads=12, layers=12, sequence=128, vocabulary=30522` is the base size.

    Inputs: token ids, token types, attention mask (int64, `[batch, sequence]`). The padding of the last sequence is
    masked.
    """
    net = Net("bert", seed, opset)
    ids = net.input("input_ids", net.rng.integers(0, vocabulary, (batch, sequence)))
    types = net.input("token_type_ids", net.rng.integers(0, 2, (batch, sequence)))
    kept = np.ones((batch, sequence), np.int64)
    kept[-1, sequence - sequence // 4 :] = 0
    mask = net.input("attention_mask", kept)

    mask = net.op("Cast", net.op("Unsqueeze", mask, net.const([1, 2])), to=1)
    mask = net.op("Mul", net.op("Sub", net.const(1.0), mask), net.const(-10000.0))
    words = net.op("Gather", net.weight(vocabulary, hidden, scale=1.0), ids)
    kinds = net.op("Gather", net.weight(2, hidden, scale=1.0), types)
    length = net.op("Unsqueeze", net.dim(ids, 1), net.const([0]))
    table = net.const(np.arange(sequence * 2)[None])
    positions = net.op("Slice", table, net.const([0]), length, net.const([1]))
    places = net.op("Gather", net.weight(sequence * 2, hidden, scale=1.0), positions)
    x = net.layer_norm(net.op("Add", net.op("Add", words, kinds), places), hidden, 1e-12, composed=True)
    for _ in range(layers):
        x = _layer(net, x, hidden, heads, mask)
    first = net.op("Gather", x, net.op("Constant", value_int=0), axis=1)
    pooled = net.op("Tanh", net.op("Gemm", first, net.weight(hidden, hidden), net.weight(hidden, scale=0.1), transB=1))
    return net.case({"last_hidden_state": x, "pooler_output": pooled})


def _layer(net: Net, x: str, hidden: int, heads: int, mask: str) -> str:
    size = hidden // heads

    def head(name: str) -> str:
        projected = net.linear(x, hidden, hidden)
        split = net.view(projected, net.dim(projected, 0), net.dim(projected, 1), heads, size)
        return str(net.op("Transpose", split, perm=[0, 2, 1, 3]))

    context = net.op("Transpose", attention(net, head("q"), head("k"), head("v"), size, mask), perm=[0, 2, 1, 3])
    context = net.view(context, net.dim(context, 0), net.dim(context, 1), hidden)
    x = net.layer_norm(net.op("Add", net.linear(context, hidden, hidden), x), hidden, 1e-12, composed=True)
    inner = net.gelu(net.linear(x, hidden, 4 * hidden))
    return net.layer_norm(net.op("Add", net.linear(inner, 4 * hidden, hidden), x), hidden, 1e-12, composed=True)
