"""The models by name: ONNX graphs with seeded weights, in the papers' sizes or small ones for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from benchmarks.models.graphs.bsrn import bsrn
from benchmarks.models.graphs.classic import alexnet, vgg16
from benchmarks.models.graphs.conformer import conformer
from benchmarks.models.graphs.deepspeech import deepspeech2
from benchmarks.models.graphs.gpt import gpt_block
from benchmarks.models.graphs.inception import inception_block
from benchmarks.models.graphs.mobilenet import mobilenet_v2
from benchmarks.models.graphs.mobilevit import mobilevit
from benchmarks.models.graphs.moe import moe_block
from benchmarks.models.graphs.nafnet import nafnet
from benchmarks.models.graphs.nasnet import nasnet
from benchmarks.models.graphs.nerf import nerf
from benchmarks.models.graphs.recurrent import lstm, seq2seq
from benchmarks.models.graphs.resnet import resnet
from benchmarks.models.graphs.restormer import restormer
from benchmarks.models.graphs.shufflenet import shufflenet_v2
from benchmarks.models.graphs.unet import unet
from tilewright.testing.cases import Case
from tilewright.testing.models.bert import bert
from tilewright.testing.models.swin import swin
from tilewright.testing.models.vit import vit
from tilewright.testing.precision import narrowed, narrowed_feeds
from tilewright.testing.seeded import LIGHT_PREFIX, light_model


@dataclass(frozen=True)
class Model:
    """How a model is built.

    Attributes:
        build: takes `seed`, `batch` and sizes by keyword.
        sizes: the published ones, where they are not the defaults.
        small: others, with which every operator remains and a test takes seconds.
    """

    build: Callable[..., Case]
    small: Mapping[str, Any]
    sizes: Mapping[str, Any] = field(default_factory=dict)


_VIT = {"layers": 12, "image": 224, "classes": 1000}
_RESNET = {"image": 64, "depths": (1, 2), "classes": 10}
_RESNEXT29 = {"image": 32, "depths": (3, 3, 3), "groups": 16, "group_width": 64, "classes": 10, "shrink": False}
_SMALL29 = {**_RESNEXT29, "image": 8, "depths": (1, 1), "groups": 4, "width": 16}
_NASNET = {"image": 32, "cells": 3, "filters": 8, "stem": 12, "classes": 10}

MODELS: Mapping[str, Model] = {
    "alexnet": Model(alexnet, {"image": 63, "divisor": 8, "hidden": 64, "classes": 10}),
    "bert": Model(
        bert,
        {"layers": 2},
        {"hidden": 768, "heads": 12, "layers": 12, "sequence": 128, "vocabulary": 30522},
    ),
    "bsrn": Model(bsrn, {"image": 24, "channels": 16, "blocks": 2, "factor": 2}),
    "conformer": Model(conformer, {"frames": 24, "width": 32, "inner": 48, "heads": 4, "layers": 2, "kernel": 7}),
    "deepspeech2": Model(
        deepspeech2, {"times": 16, "frequencies": 21, "channels": 4, "hidden": 16, "layers": 2, "classes": 7}
    ),
    "gpt_block": Model(gpt_block, {"sequence": 20, "hidden": 64, "heads": 4}),
    "inception_block": Model(inception_block, {"image": 5, "inputs": 32, "divisor": 32}),
    "lstm": Model(lstm, {"steps": 4, "hidden": 32, "layers": 2}),
    "mobilenet_v2": Model(
        mobilenet_v2, {"image": 32, "stages": ((1, 8, 1, 1), (6, 12, 2, 2)), "stem": 8, "features": 32, "classes": 10}
    ),
    "mobilevit_s": Model(
        mobilevit,
        {
            "image": 64,
            "channels": (8, 8, 12, 12, 16, 16, 32),
            "hidden": (16, 24, 24),
            "layers": (1, 1, 1),
            "heads": 2,
            "expansion": 2,
            "classes": 10,
        },
    ),
    "moe_block": Model(moe_block, {"sequence": 6, "hidden": 32, "inner": 48, "experts": 4}),
    "nafnet": Model(nafnet, {"image": 32, "width": 8}),
    "nasnet_cifar": Model(
        nasnet,
        {**_NASNET, "shrink": False},
        {"image": 32, "cells": 18, "filters": 32, "stem": 96, "classes": 10, "shrink": False},
    ),
    "nasnet_mobile": Model(nasnet, _NASNET),
    "nerf_64": Model(nerf, {"points": 100}),
    "nerf_256": Model(nerf, {"points": 40}, {"points": 65536, "width": 256}),
    "resnet50": Model(resnet, {**_RESNET, "width": 16}),
    "resnext50": Model(resnet, {**_RESNET, "width": 32, "groups": 4}, {"groups": 32, "group_width": 4}),
    "resnext29": Model(resnet, _SMALL29, _RESNEXT29),
    "resnext29_paths": Model(resnet, {**_SMALL29, "apart": True}, {**_RESNEXT29, "apart": True}),
    "resnext101": Model(
        resnet, {**_RESNET, "width": 32, "groups": 4}, {"depths": (3, 4, 23, 3), "groups": 32, "group_width": 4}
    ),
    "restormer": Model(restormer, {"image": 16, "width": 12, "blocks": (1, 1, 1), "heads": (1, 2, 4), "refinement": 1}),
    "seq2seq": Model(seq2seq, {"steps": 4, "decoded": 3, "hidden": 32, "encoders": 2, "decoders": 2}),
    "shufflenet_v2": Model(shufflenet_v2, {"image": 64, "repeats": (2, 2), "channels": (8, 16, 24, 32), "classes": 10}),
    "swin_t": Model(
        swin,
        {},
        {"hidden": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7, "image": 224, "classes": 1000},
    ),
    "unet": Model(unet, {"image": 32, "width": 8, "levels": 2, "classes": 5}),
    "vgg16": Model(vgg16, {"image": 32, "width": 8, "hidden": 64, "classes": 10}),
    "vit_b16": Model(vit, {"layers": 2}, {**_VIT, "hidden": 768, "heads": 12, "patch": 16}),
    "vit_s32": Model(vit, {"layers": 2}, {**_VIT, "hidden": 384, "heads": 6, "patch": 32}),
}
"""All models that are written here; `light:NAME` is one of the onnx package's, see `tilewright.testing.seeded`."""


def case(name: str, batch: int = 1, small: bool = False, seed: int = 0) -> Case:
    """A model in float32 with inputs for it.

    Raises:
        KeyError: there is no such model.
        ValueError: a light model has batch 1 only.
    """
    if name.startswith(LIGHT_PREFIX):
        if batch != 1:
            raise ValueError(f"{name} has batch 1 only")
        return _light(name, seed)
    model = MODELS[name]
    return model.build(seed=seed, batch=batch, **(model.small if small else model.sizes))


def graph(name: str, batch: int = 1, dtype: str = "float32", small: bool = False, seed: int = 0) -> onnx.ModelProto:
    """A model whose weights, inputs and outputs are of a dtype, float32 or float16.

    Raises:
        KeyError: there is no such model.
    """
    return in_dtype(case(name, batch, small, seed), dtype)[0]


def _light(name: str, seed: int) -> Case:
    model, rng = light_model(name.removeprefix(LIGHT_PREFIX), seed), np.random.default_rng(seed)
    shapes = {x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in model.graph.input}
    return Case(name, model, {x: rng.standard_normal(shape, np.float32) for x, shape in shapes.items()})


def in_dtype(given: Case, dtype: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model and its inputs with everything that is float32 in another dtype."""
    if dtype == "float32":
        return given.model, dict(given.feeds)
    return narrowed(given.model, dtype), narrowed_feeds(given.feeds, dtype)
