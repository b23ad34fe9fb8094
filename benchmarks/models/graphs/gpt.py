"""One layer of GPT-2 on hidden states: pre-normalised, with a causal mask (Radford et al., 2019)."""

from __future__ import annotations

import numpy as np

from tilewright.testing.cases import Case
from tilewright.testing.models.gpt import decoder_layer
from tilewright.testing.models.net import Net


def gpt_block(seed: int = 0, batch: int = 1, sequence: int = 1024, hidden: int = 768, heads: int = 12) -> Case:
    """Hidden states from hidden states, `[batch, sequence, hidden]`."""
    net = Net("gpt_block", seed)
    x = net.normal("hidden_states", batch, sequence, hidden)
    allowed = net.const(np.tril(np.ones((1, 1, sequence, sequence), np.bool_)))
    return net.case({"hidden": decoder_layer(net, x, hidden, heads, allowed)})
