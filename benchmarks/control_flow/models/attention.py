"""Attention that decodes: in each trip one more key and value goes into a cache of fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Flow, Given, floats


def cached_attention(
    net: Flow, x: str, i: str, keys: str, values: str, name: str, batch: int, heads: int, size: int, longest: int
) -> tuple[str, str, str]:
    """Attention of one position `[batch, heads·size]` at place `i` of the caches `[batch, heads, longest, size]`.

    Returns:
        the result after its projection, and the two caches.
    """
    width = heads * size
    joined = net.op("MatMul", x, net.param(f"{name}_in", width, 3 * width))
    shape = net.const(np.array([batch, heads, 1, size]))
    q, k, v = (net.op("Reshape", y, shape) for y in net.op("Split", joined, count=3, axis=-1, num_outputs=3))
    places = net.const(np.arange(longest).reshape(1, 1, longest, 1))
    here = net.op("Equal", places, i)
    keys, values = net.op("Where", here, k, keys), net.op("Where", here, v, values)
    scores = net.op("MatMul", q, net.op("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = net.op("Mul", scores, net.const(float(size) ** -0.5))
    later = net.op("Greater", net.const(np.arange(longest).reshape(1, 1, 1, longest)), i)
    scores = net.op("Where", later, net.const(np.float32(-1e9)), scores)
    found = net.op("MatMul", net.op("Softmax", scores, axis=-1), values)
    flat = net.op("Reshape", found, net.const(np.array([batch, width])))
    return net.op("MatMul", flat, net.param(f"{name}_out", width, width)), keys, values


def build(seed: int = 0, batch: int = 1, heads: int = 12, size: int = 64, start: int = 32, longest: int = 64) -> Given:
    """The last position's result `[batch, heads·size]`; each trip's result is the next one's input."""
    net = Flow("attention", seed, start=start, longest=longest, heads=heads, size=size)
    cache = floats(batch, heads, longest, size)
    x = net.normal("x", batch, heads * size)
    kept = np.zeros((2, batch, heads, longest, size), np.float32)
    kept[..., :start, :] = net.rng.standard_normal((2, batch, heads, start, size))
    keys, values = net.input("keys", kept[0]), net.input("values", kept[1])

    def trip(i: str, x: str, keys: str, values: str) -> Any:
        place = net.op("Add", i, net.const(np.int64(start)))
        return None, cached_attention(net, x, place, keys, values, "attention", batch, heads, size, longest), []

    starts = [(x, floats(batch, heads * size)), (keys, cache), (values, cache)]
    return net.finish({"y": (net.loop(longest - start, starts, trip)[0], starts[0][1])})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin

    class Attention(Twin):
        def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys, values = keys.clone(), values.clone()
            for t in range(self.start, self.longest):
                q, k, v = self.split(x)
                keys[:, :, t] = k[:, :, 0]
                values[:, :, t] = v[:, :, 0]
                scores = q @ keys[:, :, : t + 1].transpose(2, 3) * self.size**-0.5
                found = torch.softmax(scores, dim=-1) @ values[:, :, : t + 1]
                x = found.reshape(x.shape) @ self.attention_out
            return x

        def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = torch.chunk(x @ self.attention_in, 3, dim=-1)
            shape = [x.shape[0], self.heads, 1, self.size]
            return q.view(shape), k.view(shape), v.view(shape)

    return Attention(given)


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import constants

    p, sizes = constants(given), given.sizes

    def run(x: Any, keys: Any, values: Any) -> Any:
        def step(t: Any, state: Any) -> Any:
            x, keys, values = state
            shape = (x.shape[0], sizes["heads"], 1, sizes["size"])
            q, k, v = (y.reshape(shape) for y in jnp.split(x @ p["attention_in"], 3, axis=-1))
            keys = jax.lax.dynamic_update_slice_in_dim(keys, k, t, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(values, v, t, axis=2)
            scores = q @ jnp.swapaxes(keys, 2, 3) * sizes["size"] ** -0.5
            scores = jnp.where(jnp.arange(keys.shape[2]) > t, -1e9, scores)
            found = jax.nn.softmax(scores, axis=-1) @ values
            return found.reshape(x.shape) @ p["attention_out"], keys, values

        return jax.lax.fori_loop(sizes["start"], sizes["longest"], step, (x, keys, values))[0]

    return run
