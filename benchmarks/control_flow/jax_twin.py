"""What the models as JAX functions share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.control_flow.flow import Given


def constants(given: Given, *names: str) -> dict[str, Any]:
    """Weights on the device; all of them where none is named."""
    return {name: jnp.asarray(given.params[name]) for name in names or given.params}


def cell(x: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> Any:
    """One step of an LSTM."""
    return gates(x @ w + h @ u + b, c)


def gates(total: Any, c: Any) -> Any:
    """The new hidden state and cell from the sums of the gates."""
    i, f, g, o = jnp.split(total, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def conv(p: dict[str, Any], name: str, x: Any, stride: int = 1) -> Any:
    """A convolution that keeps the image's size, divided by the stride."""
    weight, bias = p[f"{name}_w"], p[f"{name}_b"]
    pad = weight.shape[-1] // 2
    found = jax.lax.conv_general_dilated(x, weight, (stride, stride), ((pad, pad), (pad, pad)))
    return found + bias[:, None, None]
