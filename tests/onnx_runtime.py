"""ONNX Runtime as a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime


def expected(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Sequence[Any]:
    """ONNX Runtime's outputs on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: Sequence[Any] = session.run(None, dict(feeds))
    return outputs
