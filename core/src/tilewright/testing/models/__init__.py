"""Blocks of well-known architectures, as their exporters write them, with seeded weights.

Each builder gives a small model by default and the published sizes on request. The graphs keep what exports contain:
shapes computed by Shape, Gather and Concat, composites written out, masks and tables as initialisers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tilewright.testing.corpus import Case
from tilewright.testing.models.bert import bert
from tilewright.testing.models.conformer import conformer
from tilewright.testing.models.gpt import gpt
from tilewright.testing.models.swin import swin
from tilewright.testing.models.unet import unet
from tilewright.testing.models.vit import vit

BUILDERS: Mapping[str, Callable[..., Case]] = {
    "bert": bert,
    "conformer": conformer,
    "gpt": gpt,
    "swin": swin,
    "unet": unet,
    "vit": vit,
}
"""Builder by name. All of them take `seed`, and sizes by keyword."""

__all__ = ["BUILDERS", "bert", "conformer", "gpt", "swin", "unet", "vit"]
