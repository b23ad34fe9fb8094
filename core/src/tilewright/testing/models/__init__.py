"""Blocks of well-known architectures, as their exporters write them, with seeded weights.

Each builder gives a small model by default and the published sizes on request. The graphs keep what exports contain:
shapes computed by Shape, Gather and Concat, composites written out, masks and tables as initialisers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tilewright.testing.cases import Case
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
"""Builder by name. All of them take `seed`, `opset` (17 to 23), and sizes by keyword."""

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "bert": {"hidden": 768, "heads": 12, "layers": 12, "sequence": 128, "vocabulary": 30522},
    "conformer": {"hidden": 512, "heads": 8, "layers": 17, "features": 80, "frames": 1000, "kernel": 31},
    "gpt": {"hidden": 768, "heads": 12, "layers": 12, "sequence": 128, "vocabulary": 50257, "context": 1024},
    "swin": {
        "hidden": 96,
        "depths": (2, 2, 6, 2),
        "heads": (3, 6, 12, 24),
        "window": 7,
        "image": 224,
        "classes": 1000,
    },
    "unet": {"image": 64, "channels": 128, "groups": 32},
    "vit": {"hidden": 768, "heads": 12, "layers": 12, "image": 224, "patch": 16, "classes": 1000},
}
"""Sizes from the papers: BERT-base, Conformer-L, GPT-2 small, Swin-T, ViT-B/16; of the U-Net two levels of one."""

__all__ = ["BUILDERS", "PUBLISHED", "bert", "conformer", "gpt", "swin", "unet", "vit"]
