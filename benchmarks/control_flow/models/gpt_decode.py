"""Greedy decoding with a small GPT of pre-normalised layers with caches, until every text has ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import SCALAR, Flow, Given, floats, integers
from benchmarks.control_flow.models.attention import cached_attention
from benchmarks.control_flow.models.seq2seq import END, START, ending_bias


def build(
    seed: int = 0,
    batch: int = 1,
    percent: int = 50,
    layers: int = 4,
    heads: int = 8,
    size: int = 64,
    vocabulary: int = 4096,
    most: int = 64,
) -> Given:
    """The words `[most, batch]`, zeros behind the end, and how many steps there were: `percent` of `most`."""
    net = Flow("gpt_decode", seed, layers=layers, heads=heads, size=size, most=most)
    width = heads * size
    table = net.param("table", vocabulary, width, scale=1.0)
    positions = net.param("positions", most, width, scale=1.0)
    bias = net.given("bias", ending_bias(most, vocabulary, round(most * percent / 100)))
    first = net.input("first", np.full(batch, START))
    for n in range(layers):
        net.param(f"up{n}", width, 4 * width)
        net.param(f"down{n}", 4 * width, width)
    cache = floats(batch, heads, most, size)
    zero = net.const(np.zeros((batch, heads, most, size), np.float32))
    one, none = net.const(np.ones(width, np.float32)), net.const(np.zeros(width, np.float32))
    places = net.const(np.arange(most).reshape(most, 1))

    def norm(x: str) -> str:
        return str(net.op("LayerNormalization", x, one, none, axis=-1, epsilon=1e-5))

    def trip(i: str, word: str, words: str, count: str, *caches: str) -> Any:
        x = net.op("Add", net.op("Gather", table, word, axis=0), net.op("Gather", positions, i, axis=0))
        after: list[str] = []
        for n in range(layers):
            keys, values = caches[2 * n : 2 * n + 2]
            y, *kept = cached_attention(net, norm(x), i, keys, values, f"attention{n}", batch, heads, size, most)
            after += kept
            x = net.op("Add", x, y)
            inner = net.gelu(net.op("MatMul", norm(x), f"up{n}"))
            x = net.op("Add", x, net.op("MatMul", inner, f"down{n}"))
        scores = net.op("MatMul", norm(x), net.op("Transpose", table, perm=[1, 0]))
        word = net.op("ArgMax", net.op("Add", scores, net.op("Gather", bias, i, axis=0)), axis=-1, keepdims=0)
        words = net.op("Where", net.op("Equal", places, i), word, words)
        open_ = net.op("Cast", net.op("Not", net.op("Equal", word, net.const(END))), to=7)
        left = net.op("Greater", net.op("ReduceMax", open_, keepdims=0), net.const(0))
        return left, (word, words, net.op("Add", count, net.const(1)), *after), []

    starts = [
        (first, integers(batch)),
        (net.const(np.zeros((most, batch), np.int64)), integers(most, batch)),
        (net.const(0), SCALAR),
        *[(zero, cache)] * (2 * layers),
    ]
    found = net.loop(most, starts, trip)
    return net.finish({"words": (found[1], integers(most, batch)), "steps": (found[2], SCALAR)})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor
    from torch.nn.functional import gelu, layer_norm

    from benchmarks.control_flow.torch_twin import Twin

    class Layer(torch.nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            for name in (f"attention{n}_in", f"attention{n}_out", f"up{n}", f"down{n}"):
                self.register_buffer(name.replace(str(n), "", 1), torch.from_numpy(given.params[name]))
            self.heads, self.size = int(given.sizes["heads"]), int(given.sizes["size"])

        def forward(self, x: Tensor, t: int, keys: Tensor, values: Tensor) -> Tensor:
            width = x.shape[-1]
            q, k, v = torch.chunk(layer_norm(x, [width]) @ self.attention_in, 3, dim=-1)
            shape = [x.shape[0], self.heads, 1, self.size]
            keys[:, :, t : t + 1] = k.view(shape)
            values[:, :, t : t + 1] = v.view(shape)
            scores = q.view(shape) @ keys[:, :, : t + 1].transpose(2, 3) * self.size**-0.5
            found = torch.softmax(scores, dim=-1) @ values[:, :, : t + 1]
            x = x + found.reshape(x.shape) @ self.attention_out
            return x + gelu(layer_norm(x, [width]) @ self.up) @ self.down

    class GptDecode(Twin):
        def __init__(self) -> None:
            super().__init__(given, "table", "positions", "bias")
            self.parts = torch.nn.ModuleList(Layer(n) for n in range(given.sizes["layers"]))
            self.heads, self.size = int(given.sizes["heads"]), int(given.sizes["size"])

        def forward(self, first: Tensor) -> tuple[Tensor, Tensor]:
            batch, width = first.shape[0], self.table.shape[1]
            caches = torch.zeros([2 * len(self.parts), batch, self.heads, self.most, self.size], device=first.device)
            words = torch.zeros([self.most, batch], dtype=torch.int64, device=first.device)
            word = first
            count = 0
            going = True
            while going and count < self.most:
                x = self.table[word] + self.positions[count]
                for n, part in enumerate(self.parts):
                    x = part(x, count, caches[2 * n], caches[2 * n + 1])
                word = torch.argmax(layer_norm(x, [width]) @ self.table.t() + self.bias[count], dim=-1)
                words[count] = word
                count += 1
                going = bool((word != 2).any())
            return words, torch.tensor(count)

    return GptDecode()


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import constants

    p, sizes = constants(given), given.sizes
    most, heads, size = sizes["most"], sizes["heads"], sizes["size"]

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def run(first: Any) -> Any:
        def goes(state: Any) -> Any:
            i, word, *_ = state
            return (i < most) & ((i == 0) | (word != END).any())

        def step(state: Any) -> Any:
            i, word, words, caches = state
            x = p["table"][word] + p["positions"][i]
            shape = (x.shape[0], heads, 1, size)
            kept = []
            for n, (keys, values) in enumerate(caches):
                q, k, v = (y.reshape(shape) for y in jnp.split(norm(x) @ p[f"attention{n}_in"], 3, axis=-1))
                keys = jax.lax.dynamic_update_slice_in_dim(keys, k, i, axis=2)
                values = jax.lax.dynamic_update_slice_in_dim(values, v, i, axis=2)
                kept.append((keys, values))
                scores = jnp.where(jnp.arange(most) > i, -1e9, q @ jnp.swapaxes(keys, 2, 3) * size**-0.5)
                x = x + (jax.nn.softmax(scores, axis=-1) @ values).reshape(x.shape) @ p[f"attention{n}_out"]
                x = x + jax.nn.gelu(norm(x) @ p[f"up{n}"], approximate=False) @ p[f"down{n}"]
            word = jnp.argmax(norm(x) @ p["table"].T + p["bias"][i], axis=-1).astype(word.dtype)
            return i + 1, word, words.at[i].set(word), tuple(kept)

        cache = jnp.zeros((first.shape[0], heads, most, size), jnp.float32)
        words = jnp.zeros((most, first.shape[0]), first.dtype)
        found = jax.lax.while_loop(goes, step, (0, first, words, ((cache, cache),) * sizes["layers"]))
        return found[2], found[0]

    return run
