"""A recursive auto-encoder over a binary tree: a model that ONNX cannot express, built in Python.

    python examples/recursion.py --target cpu

A leaf's code is its word's vector; an inner node's code is tanh(W [left; right] + b). The tree is data: two arrays of
children and one that says which nodes are leaves. One program runs trees of every shape, up to the depth that the
module allows.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

import tilewright
from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.errors import TilewrightError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.ir.module import Module

NODES, WIDTH = 127, 512
NODE = ("int64", ())
CODE = ("float32", (1, WIDTH))
TREE = [("int64", (NODES,)), ("int64", (NODES,)), ("bool", (NODES,)), ("float32", (NODES, WIDTH))]


def auto_encoder(weight: Any, bias: Any, depth: int) -> Module:
    """The module, with a weight [2 · WIDTH, WIDTH] and a bias [WIDTH]. `depth` bounds the height of trees."""
    m = ModuleBuilder(depth)

    @m.function([NODE, *TREE], [CODE])
    def encode(b: FunctionBuilder, node: Tensor, left: Tensor, right: Tensor, leaf: Tensor, words: Tensor) -> Any:
        def word() -> Any:
            return b.op("Unsqueeze", b.op("Gather", words, node), np.asarray([0]))

        def inner() -> Any:
            # The tree's arrays are the same in every call, so they are read where they stand, not copied.
            children = [b.call(encode, b.op("Gather", side, node), left, right, leaf, words) for side in (left, right)]
            return b.op("Tanh", b.op("Add", b.op("MatMul", b.op("Concat", *children, axis=1), weight), bias))

        return b.cond(b.op("Gather", leaf, node), word, inner)

    @m.entry([NODE, *TREE], ["code"])
    def main(b: FunctionBuilder, root: Tensor, left: Tensor, right: Tensor, leaf: Tensor, words: Tensor) -> Any:
        return b.call(encode, root, left, right, leaf, words)

    return m.build()


def random_tree(rng: np.random.Generator) -> dict[str, Any]:
    """A tree of `NODES` nodes that grows at random leaves; node 0 is the root."""
    left, right, leaf = np.zeros(NODES, np.int64), np.zeros(NODES, np.int64), np.ones(NODES, bool)
    for first in range(1, NODES, 2):
        grown = int(rng.choice(np.flatnonzero(leaf[:first])))
        left[grown], right[grown], leaf[grown] = first, first + 1, False
    words = rng.standard_normal((NODES, WIDTH)).astype(np.float32)
    return {"root": np.asarray(0, np.int64), "left": left, "right": right, "leaf": leaf, "words": words}


def reference(tree: dict[str, Any], weight: Any, bias: Any, node: int = 0) -> Any:
    """The code of a node, in float64, by Python's own recursion."""
    if tree["leaf"][node]:
        return tree["words"][node : node + 1].astype(np.float64)
    sides = [reference(tree, weight, bias, int(tree[side][node])) for side in ("left", "right")]
    return np.tanh(np.concatenate(sides, axis=1) @ weight + bias)


def main() -> int:
    """Compiles the model, runs it on a few trees, and compares; 0 if all agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--depth", type=int, default=64, help="how deep calls may nest")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((2 * WIDTH, WIDTH)) / np.sqrt(2 * WIDTH)).astype(np.float32)
    bias = rng.standard_normal(WIDTH).astype(np.float32)
    worst = 0.0
    try:
        program = tilewright.compile(auto_encoder(weight, bias, arguments.depth), target=arguments.target)
        for number in range(3):
            tree = random_tree(rng)
            start = time.perf_counter()
            (code,) = program.run(["code"], tree)
            seconds = time.perf_counter() - start
            error = float(np.abs(code - reference(tree, weight, bias)).max())
            print(f"tree {number}: {seconds * 1e3:.2f} ms, largest error {error:.1e}")
            worst = max(worst, error)
    except TilewrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
