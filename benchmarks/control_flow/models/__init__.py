"""The models by name: in the papers' sizes, or small ones for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.control_flow.flow import Given
from benchmarks.control_flow.models import (
    attention,
    blockdrop,
    early_exit,
    gpt_decode,
    lstm,
    nasrnn,
    rae,
    seq2seq,
    skipnet,
)


@dataclass(frozen=True)
class Model:
    """One model in several formulations.

    Attributes:
        build: takes `seed`, `batch`, and `percent` where decisions have a ratio; gives the model for us and ONNX
            Runtime.
        twin: a PyTorch module from what `build` gave.
        scripted_twin: the one that TorchScript takes.
        lax: a JAX function from it.
        library: a module of PyTorch's own that does the same, which eager PyTorch then is.
        small: sizes with which every construct remains and a test takes seconds.
        ratios: whether there is a share of what could run that does.
    """

    build: Callable[..., Given]
    twin: Callable[[Given], Any]
    scripted_twin: Callable[[Given], Any]
    lax: Callable[[Given], Any]
    library: Callable[[Given], Any] | None
    small: Mapping[str, Any]
    ratios: bool = False


def _model(module: Any, small: Mapping[str, Any], ratios: bool = False) -> Model:
    scripted, library = getattr(module, "scripted_twin", module.twin), getattr(module, "library", None)
    return Model(module.build, module.twin, scripted, module.lax, library, small, ratios)


MODELS: Mapping[str, Model] = {
    "attention": _model(attention, {"heads": 2, "size": 4, "start": 3, "longest": 8}),
    "blockdrop": _model(blockdrop, {"blocks": (2, 2), "widths": (4, 8), "image": 8}, ratios=True),
    "early_exit": _model(early_exit, {"blocks": 4, "width": 16, "classes": 5}, ratios=True),
    "gpt_decode": _model(gpt_decode, {"layers": 2, "heads": 2, "size": 4, "vocabulary": 20, "most": 8}, ratios=True),
    "lstm": _model(lstm, {"layers": 3, "steps": 5, "hidden": 8}),
    "nasrnn": _model(nasrnn, {"steps": 6, "hidden": 8}),
    "rae": _model(rae, {"hidden": 8, "leaves": 6}),
    "seq2seq": _model(seq2seq, {"hidden": 8, "vocabulary": 30, "most": 10, "last": 6}),
    "skipnet": _model(skipnet, {"blocks": (1, 2, 2), "width": 4, "image": 32, "classes": 5}, ratios=True),
}


def given(name: str, batch: int = 1, percent: int | None = None, small: bool = False, seed: int = 0) -> Given:
    """A model with weights and inputs from a seed.

    Args:
        percent: of what could run, for models of which decisions have a ratio.

    Raises:
        KeyError: there is no such model.
    """
    model = MODELS[name]
    ratio = {} if percent is None else {"percent": percent}
    return model.build(seed=seed, batch=batch, **ratio, **(model.small if small else {}))
