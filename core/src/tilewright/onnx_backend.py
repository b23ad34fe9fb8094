"""ONNX's own interface to run a model: `prepare`, `run_model`, `run_node`, as `onnx.backend.base.Backend` has them.

    rep = tilewright.onnx_backend.prepare(model, device="CPU")
    outputs = rep.run([x, y])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from tilewright.api import compile as compile_model
from tilewright.config import ConfigSource
from tilewright.errors import InputError, UnsupportedError

_DEVICES = ("CPU", "CUDA")


class TilewrightRep(BackendRep):
    """A prepared model. One whose shapes depend on the values of inputs is compiled for each set of values."""

    def __init__(self, model: onnx.ModelProto, target: str, config: ConfigSource, fallback: str | None) -> None:
        self.program = compile_model(model, target, config, fallback=fallback, cache=False)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, as a named tuple.

        Args:
            inputs: the arrays (or lists for sequences, None for empty optionals) in the model's order, or by name.
        """
        plain = {x.name for x in self.program.inputs if x.is_plain}
        names = [x.name for x in self.program.inputs]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        elif len(_sequence(inputs)) != len(names):
            raise InputError(f"The model takes {len(names)} inputs, {len(_sequence(inputs))} are given.")
        else:
            feeds = dict(zip(names, _sequence(inputs), strict=True))
        outputs = self.program.run(None, {k: np.asarray(x) if k in plain else x for k, x in feeds.items()})
        return namedtupledict("Outputs", [x.name for x in self.program.outputs])(*outputs)


def _sequence(inputs: Any) -> Sequence[Any]:
    return inputs if isinstance(inputs, (list, tuple)) else [inputs]


class TilewrightBackend(Backend):
    """Tilewright as a backend of ONNX."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> TilewrightRep:
        """Compiles a model.

        Args:
            device: `CPU` or `CUDA`.
            kwargs: `target`, `config` and `fallback`, as in `tilewright.compile`. For `CUDA` the target must be given,
                such as `cuda:h200`.

        Raises:
            UnsupportedError: the model cannot be compiled, or `device` is another one.
        """
        if not cls.supports_device(device):
            raise UnsupportedError(f"There is no device {device!r}.", f"Devices are {', '.join(_DEVICES)}.")
        kind = device.partition(":")[0].lower()
        target = kwargs.get("target") or ("cpu" if kind == "cpu" else "")
        if target.partition(":")[0] != kind:
            raise InputError(f"The device {device!r} does not go with the target {target!r}.", f"Name one of {kind}:….")
        return TilewrightRep(model, target, kwargs.get("config"), kwargs.get("fallback"))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of a model, compiled for this one run."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """The outputs of one node of ONNX's newest opset, or of `opset_version`."""
        arrays = [np.asarray(x) for x in _sequence(inputs)]
        names = [x for x in node.input if x]
        infos = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in zip(names, arrays, strict=True)
        ]
        opset = onnx.helper.make_opsetid("", int(kwargs.get("opset_version", onnx.defs.onnx_opset_version())))
        graph = onnx.helper.make_graph([node], "node", infos, [onnx.ValueInfoProto(name=x) for x in node.output if x])
        model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=[opset]))
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether programs can be made for the device (a GPU may still be missing)."""
        return device.partition(":")[0] in _DEVICES


prepare = TilewrightBackend.prepare
run_model = TilewrightBackend.run_model
run_node = TilewrightBackend.run_node
supports_device = TilewrightBackend.supports_device
is_compatible = TilewrightBackend.is_compatible
