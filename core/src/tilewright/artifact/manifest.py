"""The manifest: what an artifact is, for which target, and what its other sections hold. JSON, no code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen
from attrs.validators import deep_iterable, deep_mapping, ge, in_, instance_of, le, matches_re, max_len

from tilewright.artifact.errors import damaged
from tilewright.config.structure import ConfigError, structure
from tilewright.ir import dtypes

FORMAT = "tilewright-artifact"
SCHEMA = 1
MANIFEST = "manifest.json"
LIBRARY = "library.so"
WEIGHTS = "weights.safetensors"
DECISIONS = "decisions.json"

LIMITS: Mapping[str, int] = {
    MANIFEST: 16 << 20,
    LIBRARY: 2 << 30,
    WEIGHTS: 256 << 30,
    DECISIONS: 256 << 20,
}
"""Largest size of each section in bytes; any other section may have `OTHER_LIMIT`."""

OTHER_LIMIT = 2 << 30

LARGEST_TENSOR = 1 << 47
"""Bytes; what a process can address on x86-64. Also the largest extent."""

_MAX_RANK = 64  # NumPy's

REQUIREMENTS = ("runtime", "reference", "compiler")
"""What running a program may need beyond its file."""


def _extent(instance: object, attribute: object, value: int | str) -> None:
    if isinstance(value, int) and not 0 <= value <= LARGEST_TENSOR:
        raise ValueError(f"an extent must be between 0 and {LARGEST_TENSOR}, not {value}")


@frozen
class TensorInfo:
    """An input or output: its ONNX name, the IR's dtype, and its extents; a string is a symbol's name."""

    name: str
    dtype: str = field(validator=in_(dtypes.STORED))
    shape: tuple[int | str, ...] = field(validator=deep_iterable(_extent, max_len(_MAX_RANK)))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    def largest(self, symbols: Mapping[str, int]) -> int:
        """Bytes of the tensor when every symbol has its upper bound."""
        extents = (extent if isinstance(extent, int) else symbols[extent] for extent in self.shape)
        return math.prod(extents) * dtypes.size_of(self.dtype)


@frozen
class Section:
    """Size in bytes and SHA-256 (hexadecimal) of a section."""

    size: int = field(validator=ge(0))
    sha256: str = field(validator=matches_re("[0-9a-f]{64}"))


@frozen
class Manifest:
    """What an artifact says about itself.

    Args:
        tilewright: version of the compiler.
        model: the model's name, for people; nothing depends on it.
        target: canonical target string.
        provider: name of the plugin that registered the backend.
        inputs: in the order in which the program takes them.
        outputs: in the order in which it gives them.
        symbols: upper bound of each symbol in a shape.
        requires: what running needs beyond this file, of `REQUIREMENTS`.
        slots: the value of every slot that planned it.
        versions: compiler, toolchain and plugins.
        kernels: number of different kernels in the library.
        data: the backend's own.
        sections: every other member of the archive.
    """

    tilewright: str
    model: str
    target: str
    provider: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbols: Mapping[str, int] = field(
        factory=dict, validator=deep_mapping(instance_of(str), [ge(0), le(LARGEST_TENSOR)])
    )
    requires: tuple[str, ...] = field(default=("runtime",), validator=deep_iterable(in_(REQUIREMENTS)))
    slots: Mapping[str, str] = field(factory=dict)
    versions: Mapping[str, str] = field(factory=dict)
    kernels: int = field(default=0, validator=ge(0))
    data: Mapping[str, Any] = field(factory=dict)
    sections: Mapping[str, Section] = field(factory=dict)
    format: str = field(default=FORMAT, validator=in_((FORMAT,)))
    schema: int = field(default=SCHEMA, validator=in_((SCHEMA,)))

    def __attrs_post_init__(self) -> None:
        known: set[str] = set()
        for what, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [info.name for info in tensors]
            if len(set(names)) < len(names):
                raise ValueError(f"two {what}s have one name: {', '.join(map(repr, names))}")
            for info in tensors:
                used = {extent for extent in info.shape if isinstance(extent, str)}
                if what == "input":
                    known |= used & self.symbols.keys()
                if used - known:
                    raise ValueError(f"{what} {info.name!r} depends on {min(used - known)!r}, which nothing gives")
                if info.largest(self.symbols) > LARGEST_TENSOR:
                    raise ValueError(f"{what} {info.name!r} is larger than memory can be: {info}")

    @property
    def backend(self) -> str:
        """Name of the backend that can load it."""
        return self.target.partition(":")[0]

    def to_json(self) -> bytes:
        """The manifest as stored: sorted keys, so that equal manifests are equal bytes."""
        return json.dumps(attrs.asdict(self), sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"


def parse_manifest(path: Path, text: bytes) -> Manifest:
    """The manifest of the artifact at `path`.

    Raises:
        ArtifactError: it is not valid, or of another version of the format.
    """
    try:
        return structure(Manifest, json.loads(text), MANIFEST)
    except (ValueError, RecursionError, ConfigError) as error:
        raise damaged(path, f"its manifest is wrong ({error})") from error
