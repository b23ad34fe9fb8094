"""GPT-2: pre-normalised decoder layers with a causal mask, tied output embedding (Radford et al., 2019)."""

from __future__ import annotations

import numpy as np

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def gpt(
    seed: int = 0,
    opset: int = 17,
    layers: int = 1,
    batch: int = 2,
    sequence: int = 12,
    hidden: int = 64,
    heads: int = 4,
    vocabulary: int = 100,
    context: int = 32,
) -> Case:
    """A decoder; `hidden=768, heads=12, layers=12, sequence=128, vocabulary=50257, context=1024` is the small model.

    Input: token ids (int64, `[batch, sequence]`). Output: logits `[batch, sequence, vocabulary]`.
    """
    net = Net("gpt", seed, opset)
    ids = net.input("input_ids", net.rng.integers(0, vocabulary, (batch, sequence)))
    flat = net.view(ids, -1, net.dim(ids, 1))
    embedding = net.weight(vocabulary, hidden, scale=0.2)
    positions = net.op("Unsqueeze", net.op("Range", net.const(0), net.dim(flat, 1), net.const(1)), net.const([0]))
    x = net.op(
        "Add",
        net.op("Gather", embedding, flat),
        net.op("Gather", net.weight(context, hidden, scale=0.2), positions),
    )
    allowed = net.const(np.tril(np.ones((1, 1, context, context), np.bool_)))
    for _ in range(layers):
        x = decoder_layer(net, x, hidden, heads, allowed)
    logits = net.op("MatMul", net.layer_norm(x, hidden), net.op("Transpose", embedding, perm=[1, 0]))
    return net.case({"logits": logits})


def decoder_layer(net: Net, x: str, hidden: int, heads: int, allowed: str) -> str:
    """One layer on `[batch, sequence, hidden]`.

    Args:
        allowed: the causal mask (bool, `[1, 1, context, context]`), of which a part is used.
    """
    x = net.op("Add", x, _attention(net, net.layer_norm(x, hidden), hidden, heads, allowed))
    inner = _tanh_gelu(net, _projection(net, net.layer_norm(x, hidden), hidden, 4 * hidden))
    return str(net.op("Add", x, _projection(net, inner, 4 * hidden, hidden)))


def _projection(net: Net, x: str, inputs: int, outputs: int) -> str:
    """A Gemm on the flattened positions, between two reshapes."""
    flat = net.view(x, -1, net.dim(x, 2))
    product = net.op("Gemm", flat, net.weight(inputs, outputs, scale=inputs**-0.5), net.weight(outputs, scale=0.1))
    return net.view(product, net.dim(x, 0), net.dim(x, 1), outputs)


def _attention(net: Net, x: str, hidden: int, heads: int, allowed: str) -> str:
    size = hidden // heads
    parts = net.op("Split", _projection(net, x, hidden, 3 * hidden), net.const([hidden] * 3), count=3, axis=2)

    def head(part: str, order: list[int]) -> str:
        return str(net.op("Transpose", net.view(part, net.dim(part, 0), net.dim(part, 1), heads, size), perm=order))

    q, k, v = head(parts[0], [0, 2, 1, 3]), head(parts[1], [0, 2, 3, 1]), head(parts[2], [0, 2, 1, 3])
    scores = net.op("Div", net.op("MatMul", q, k), net.const(float(size) ** 0.5))
    queries, keys = (net.op("Unsqueeze", net.dim(scores, d), net.const([0])) for d in (2, 3))
    rows = net.op("Slice", allowed, net.op("Sub", keys, queries), keys, net.const([2]))
    mask = net.op("Slice", rows, net.const([0]), keys, net.const([3]))
    scores = net.op("Where", mask, scores, net.const(np.float32(np.finfo(np.float32).min)))
    merged = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return _projection(net, net.view(merged, net.dim(merged, 0), net.dim(merged, 1), hidden), hidden, hidden)


def _tanh_gelu(net: Net, x: str) -> str:
    cube = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(0.044715))
    inner = net.op("Tanh", net.op("Mul", net.op("Add", x, cube), net.const(float(np.sqrt(2 / np.pi)))))
    return str(net.op("Mul", net.op("Mul", x, net.const(0.5)), net.op("Add", inner, net.const(1.0))))
