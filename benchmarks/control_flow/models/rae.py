"""RAE (Socher et al., 2011): a recursive autoencoder's code of a sentence, by recursion over its tree.

ONNX has no recursion, so this is a module of ours. The tree is data: two children for each node, negative at a leaf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Given
from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.frontend.legalize.builder import Tensor as Operand
from tilewright.testing.models.net import Array


def random_tree(leaves: int, seed: int) -> tuple[Array, Array]:
    """Left and right children of `2·leaves - 1` nodes, children before their parents, the root last; -1 at leaves."""
    rng = np.random.default_rng(seed)
    nodes = 2 * leaves - 1
    children = np.full((2, nodes), -1, np.int64)
    open_ = list(range(leaves))
    for parent in range(leaves, nodes):
        # Two neighbours are joined, as phrases of a sentence are.
        at = int(rng.integers(len(open_) - 1))
        children[:, parent] = open_[at : at + 2]
        open_[at : at + 2] = [parent]
    return children[0], children[1]


def build(seed: int = 0, batch: int = 1, hidden: int = 512, leaves: int = 64) -> Given:
    """The root's code `[1, hidden]`."""
    if batch != 1:
        raise ValueError("rae has batch 1 only")
    rng = np.random.default_rng(seed)
    nodes = 2 * leaves - 1
    left, right = random_tree(leaves, seed)
    words = rng.standard_normal((nodes, hidden)).astype(np.float32)
    w = (rng.standard_normal((2 * hidden, hidden)) * (2 * hidden) ** -0.5).astype(np.float32)
    bias = (rng.standard_normal(hidden) * 0.1).astype(np.float32)
    m = ModuleBuilder(depth=nodes)
    index, codes = ("int64", (nodes,)), ("float32", (nodes, hidden))

    @m.function([("int64", ()), index, index, codes], [("float32", (1, hidden))])
    def encode(b: FunctionBuilder, node: Operand, left: Operand, right: Operand, words: Operand) -> Any:
        def inner() -> Any:
            sides = [b.call(encode, b.op("Gather", x, node), left, right, words) for x in (left, right)]
            return b.op("Tanh", b.op("Add", b.op("MatMul", b.op("Concat", *sides, axis=1), w), bias))

        def leaf() -> Any:
            return b.op("Unsqueeze", b.op("Gather", words, node, axis=0), np.array([0]))

        return b.cond(b.op("Less", b.op("Gather", left, node), 0), leaf, inner)

    @m.entry([index, index, codes], ["y"])
    def main(b: FunctionBuilder, left: Operand, right: Operand, words: Operand) -> Any:
        return b.call(encode, np.asarray(nodes - 1), left, right, words)

    feeds = {"left": left, "right": right, "words": words}
    return Given("rae", m.build(), feeds, {"w": w, "bias": bias})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin

    class Rae(Twin):
        def encode(self, node: int, left: list[int], right: list[int], words: Tensor) -> Tensor:
            import torch

            if left[node] < 0:
                return words[node : node + 1]
            both = [self.encode(x[node], left, right, words) for x in (left, right)]
            return torch.tanh(torch.cat(both, dim=1) @ self.w + self.bias)

        def forward(self, left: Tensor, right: Tensor, words: Tensor) -> Tensor:
            children = left.tolist(), right.tolist()
            return self.encode(len(children[0]) - 1, *children, words)

    return Rae(given)


def scripted_twin(given: Given) -> Any:
    """Nodes in order, into a list of codes: TorchScript has no recursion."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin

    class Rae(Twin):
        def forward(self, left: Tensor, right: Tensor, words: Tensor) -> Tensor:
            codes = [words[n : n + 1] for n in range(words.shape[0])]
            for n in range(words.shape[0]):
                if bool(left[n] >= 0):
                    both = torch.cat([codes[int(left[n])], codes[int(right[n])]], dim=1)
                    codes[n] = torch.tanh(both @ self.w + self.bias)
            return codes[-1]

    return Rae(given)


def lax(given: Given) -> Any:
    """Nodes in order, into an array of codes: JAX has no recursion on data."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import constants

    p = constants(given)

    def run(left: Any, right: Any, words: Any) -> Any:
        def node(n: Any, codes: Any) -> Any:
            def inner(codes: Any) -> Any:
                both = jnp.concatenate([codes[left[n]], codes[right[n]]])
                return codes.at[n].set(jnp.tanh(both @ p["w"] + p["bias"]))

            return jax.lax.cond(left[n] < 0, lambda codes: codes, inner, codes)

        return jax.lax.fori_loop(0, left.shape[0], node, words)[-1:]

    return run
