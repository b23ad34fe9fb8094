"""The decoder of a sequence-to-sequence model: greedy, until every sentence has ended.

A bias on the score of the end makes it fall at one step: it is far below zero before, and far above from there on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import SCALAR, Flow, Given, floats, integers, lstm_cell
from tilewright.testing.models.net import Array

END = 2
START = 1


def ending_bias(most: int, vocabulary: int, last: int) -> Array:
    """Added to the scores of each step: the end is chosen at step `last`, counted from 1, and not before."""
    bias = np.zeros((most, vocabulary), np.float32)
    bias[:, END] = np.where(np.arange(most) + 1 < last, -1e4, 1e4)
    return bias


def build(
    seed: int = 0, batch: int = 1, hidden: int = 256, vocabulary: int = 3797, most: int = 50, last: int = 37
) -> Given:
    """The words `[most, batch]`, zeros behind the end, and how many steps there were."""
    net = Flow("seq2seq", seed, most=most)
    h, c = net.normal("h", batch, hidden), net.normal("c", batch, hidden)
    table = net.param("table", vocabulary, hidden, scale=1.0)
    w, u = net.param("w", hidden, 4 * hidden), net.param("u", hidden, 4 * hidden)
    b = net.param("b", 4 * hidden, scale=0.1)
    out = net.param("out", hidden, vocabulary, scale=1.0)
    bias = net.given("bias", ending_bias(most, vocabulary, last))
    places = net.const(np.arange(most).reshape(most, 1))

    def trip(i: str, word: str, h: str, c: str, words: str, count: str) -> Any:
        h, c = lstm_cell(net, net.op("Gather", table, word, axis=0), h, c, w, u, b)
        scores = net.op("Add", net.op("MatMul", h, out), net.op("Gather", bias, i, axis=0))
        word = net.op("ArgMax", scores, axis=-1, keepdims=0)
        words = net.op("Where", net.op("Equal", places, i), word, words)
        open_ = net.op("Cast", net.op("Not", net.op("Equal", word, net.const(END))), to=7)
        left = net.op("Greater", net.op("ReduceMax", open_, keepdims=0), net.const(0))
        return left, (word, h, c, words, net.op("Add", count, net.const(1))), []

    starts = [
        (net.const(np.full(batch, START)), integers(batch)),
        (h, floats(batch, hidden)),
        (c, floats(batch, hidden)),
        (net.const(np.zeros((most, batch), np.int64)), integers(most, batch)),
        (net.const(0), SCALAR),
    ]
    found = net.loop(most, starts, trip)
    return net.finish({"words": (found[3], integers(most, batch)), "steps": (found[4], SCALAR)})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin, cell

    class Seq2Seq(Twin):
        def forward(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            word = torch.ones([h.shape[0]], dtype=torch.int64, device=h.device)
            words = torch.zeros([self.most, h.shape[0]], dtype=torch.int64, device=h.device)
            count = 0
            going = True
            while going and count < self.most:
                h, c = cell(self.table[word], h, c, self.w, self.u, self.b)
                word = torch.argmax(h @ self.out + self.bias[count], dim=-1)
                words[count] = word
                count += 1
                going = bool((word != 2).any())
            return words, torch.tensor(count)

    return Seq2Seq(given)


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import cell, constants

    p, most = constants(given), given.sizes["most"]

    def run(h: Any, c: Any) -> Any:
        def goes(state: Any) -> Any:
            i, word, *_ = state
            return (i < most) & ((i == 0) | (word != END).any())

        def step(state: Any) -> Any:
            i, word, h, c, words = state
            h, c = cell(p["table"][word], h, c, p["w"], p["u"], p["b"])
            word = jnp.argmax(h @ p["out"] + p["bias"][i], axis=-1)
            return i + 1, word, h, c, words.at[i].set(word)

        word = jnp.full(h.shape[0], START)
        found = jax.lax.while_loop(goes, step, (0, word, h, c, jnp.zeros((most, h.shape[0]), word.dtype)))
        return found[4], found[0]

    return run
