"""The manifest: what an artifact is, for which target, and what its other sections hold. JSON, no code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, deep_mapping, ge, in_, instance_of, le, matches_re, max_len

from tilewright.artifact import extents
from tilewright.artifact.errors import damaged
from tilewright.config.structure import ConfigError, structure
from tilewright.ir import dtypes
from tilewright.ir.lengths import delivered_names

FORMAT = "tilewright-artifact"
SCHEMA = 1
KINDS = ("native", "specialise", "reference")
"""Kinds of steps."""

MANIFEST = "manifest.json"
LIBRARY = "library.so"
MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
DECISIONS = "decisions.json"

_LIMITS: Mapping[str, int] = {
    MANIFEST: 16 << 20,
    LIBRARY: 2 << 30,
    WEIGHTS: 256 << 30,
    DECISIONS: 256 << 20,
}
UNRANKED = ("…",)
STRING = "string"
_OTHER_LIMIT = 2 << 30
_NUMBER = re.compile(r"-[0-9]+(?=\.)")


def numbered(section: str, number: int) -> str:
    """The name of the section of a kind that belongs to program `number`: `library.so`, `library-1.so`, …"""
    stem, dot, suffix = section.partition(".")
    return f"{stem}-{number}{dot}{suffix}" if number else section


def limit_of(section: str) -> int:
    """Largest size of a section in bytes."""
    return _LIMITS.get(_NUMBER.sub("", section), _OTHER_LIMIT)


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
    """An input or output.

    Args:
        name: its ONNX name.
        dtype: the IR's, or `string`.
        shape: extents; a string is a symbol's name or an expression over symbols. `UNRANKED` where their number is not
            known.
        form: what it is where it is no tensor, such as `sequence of float32[2]`; it has no dtype and no shape then.
    """

    name: str
    dtype: str = field(validator=in_((*dtypes.STORED, STRING, "")))
    shape: tuple[int | str, ...] = field(validator=deep_iterable(_extent, max_len(_MAX_RANK)))
    form: str = "tensor"

    def __attrs_post_init__(self) -> None:
        if (self.form == "tensor") != bool(self.dtype):
            raise ValueError("a tensor has a dtype, and nothing else has one")

    @property
    def is_plain(self) -> bool:
        """Whether it is a tensor of numbers."""
        return self.dtype not in ("", STRING)

    def __str__(self) -> str:
        if self.form != "tensor":
            return self.form
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    def largest(self, symbols: Mapping[str, tuple[int, int]]) -> int:
        """Bytes of the tensor by the bounds of the symbols."""
        return extents.most_elements(self.shape, symbols) * dtypes.size_of(self.dtype)


@frozen
class Section:
    """Size in bytes and SHA-256 (hexadecimal) of a section."""

    size: int = field(validator=ge(0))
    sha256: str = field(validator=matches_re("[0-9a-f]{64}"))


@frozen
class Variant:
    """One native program: the code of a step for some shapes of its inputs.

    Args:
        library: the section that holds its code.
        decisions: the section that holds the planner's record of it.
        inputs: in the order in which the program takes them, which is the step's.
        outputs: in the order in which it gives them, which is the step's; lengths stand between them.
        symbols: the smallest and the largest value of each symbol in a shape.
        weights: what each weight that the program asks for is called in the section of weights.
        kernels: number of different kernels in the library.
        lengths: outputs of which the program says how many rows count; see `ir.lengths`.
        data: the backend's own.
    """

    library: str
    decisions: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbols: Mapping[str, tuple[int, int]] = field(
        factory=dict, validator=deep_mapping(instance_of(str), deep_iterable([ge(0), le(LARGEST_TENSOR)]))
    )
    weights: Mapping[str, str] = field(factory=dict)
    kernels: int = field(default=0, validator=ge(0))
    lengths: Mapping[str, str] = field(factory=dict)
    data: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        _check_names(self.inputs, self.outputs)
        given = {extent for info in self.inputs for extent in info.shape}
        for what, tensors in (("input", self.inputs), ("output", self.outputs)):
            for info in tensors:
                _check_plain(info)
                known = self.symbols.keys() & given
                used = extents.symbols_in(info.shape)
                if used - known:
                    raise ValueError(f"{what} {info.name!r} depends on {min(used - known)!r}, which nothing gives")
                if info.largest(self.symbols) > LARGEST_TENSOR:
                    raise ValueError(f"{what} {info.name!r} is larger than memory can be: {info}")
        outputs = {info.name: info for info in self.outputs}
        for name, length in self.lengths.items():
            if name not in outputs or length not in outputs:
                raise ValueError(f"the length of {name!r}, or what it is the length of, is no output")
            if not outputs[name].shape or (outputs[length].dtype, outputs[length].shape) != ("int64", ()):
                raise ValueError(f"{length!r} is no length of {name!r}")

    @property
    def delivered(self) -> tuple[TensorInfo, ...]:
        """The outputs that a user gets; an extent that the program computes has a name."""
        names = delivered_names([info.name for info in self.outputs], self.lengths)
        return tuple(
            evolve(info, shape=(f"{info.name}.0", *info.shape[1:])) if info.name in self.lengths else info
            for info in self.outputs
            if info.name in names
        )


@frozen
class StoredWeight:
    """A weight of a model: what it is called in the section of weights, and its dtype in the model."""

    stored: str
    dtype: str = field(validator=in_(dtypes.STORED))


@frozen
class Model:
    """A model, or a part of one, that is compiled when values of its inputs are known, or that ONNX's evaluator runs.

    Args:
        section: the section that holds it, an ONNX model without its weights.
        shapes: what its inputs may be, in the step's order: one of these. A named extent may be any.
        weights: by ONNX name.
        config: the configuration to compile it with, as `tilewright.config` takes it.
    """

    section: str
    shapes: tuple[tuple[TensorInfo, ...], ...]
    weights: Mapping[str, StoredWeight] = field(factory=dict)
    config: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for infos in self.shapes:
            _check_names(infos, ())


@frozen
class Fallen:
    """A node that ONNX's reference evaluator runs.

    Args:
        node: how errors call it.
        why: what keeps it from being compiled.
        inner: the nodes of its graphs, which the evaluator runs too.
    """

    node: str
    why: str
    inner: tuple[str, ...] = ()


@frozen
class Step:
    """One step of running a program. It takes and gives values by name: the program's inputs, and what steps give.

    Args:
        kind: `native`: the variant whose shapes the inputs have is run. `specialise`: the model is compiled for the
            shapes of its inputs and for the values of those that decide shapes, and the program is kept. `reference`:
            ONNX's reference evaluator runs the model.
        inputs: names of the values that it takes.
        outputs: names of the values that it gives.
        variants: of a native step; no two take inputs of equal shapes.
        model: of any other step.
        nodes: the nodes that ONNX's reference evaluator runs, for people.
    """

    kind: str = field(validator=in_(KINDS))
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variants: tuple[Variant, ...] = ()
    model: Model | None = None
    nodes: tuple[Fallen, ...] = ()

    def __attrs_post_init__(self) -> None:
        if (self.kind == "native") != bool(self.variants) or (self.kind == "native") != (self.model is None):
            raise ValueError(f"a step of kind {self.kind} has other parts than it should")
        for info in (x for infos in self.shapes for x in infos if self.kind != "reference"):
            _check_plain(info)
        if not self.shapes or any(tuple(x.name for x in infos) != self.inputs for infos in self.shapes):
            raise ValueError("the shapes of a step's inputs are in the order of the inputs")
        if any(tuple(x.name for x in variant.delivered) != self.outputs for variant in self.variants):
            raise ValueError("a variant gives what its step does")
        shapes = [
            (tuple(info.shape for info in variant.inputs), tuple(sorted(variant.symbols.items())))
            for variant in self.variants
        ]
        if len(set(shapes)) < len(shapes):
            raise ValueError("two variants of a step take inputs of equal shapes")

    @property
    def shapes(self) -> tuple[tuple[TensorInfo, ...], ...]:
        """What the inputs may be: one of these."""
        if self.model is not None:
            return self.model.shapes
        return tuple(variant.inputs for variant in self.variants)


@frozen
class Manifest:
    """What an artifact says about itself.

    Args:
        tilewright: version of the compiler.
        model: the model's name, for people; nothing depends on it.
        target: canonical target string.
        provider: name of the plugin that registered the backend.
        inputs: in the model's order. An extent that is not one number has a name.
        outputs: likewise.
        pipeline: what running does, step by step.
        requires: what running needs beyond this file, of `REQUIREMENTS`.
        slots: the value of every slot that planned it.
        versions: compiler, toolchain and plugins.
        threads: worker threads that it was planned for, 0 where the target has none. It runs with any number.
        digests: of the weights, by what they are called in their section; equal ones have equal contents.
        sections: every other member of the archive.
    """

    tilewright: str
    model: str
    target: str
    provider: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    pipeline: tuple[Step, ...]
    requires: tuple[str, ...] = field(default=("runtime",), validator=deep_iterable(in_(REQUIREMENTS)))
    slots: Mapping[str, str] = field(factory=dict)
    versions: Mapping[str, str] = field(factory=dict)
    threads: int = field(default=0, validator=ge(0))
    digests: Mapping[str, str] = field(factory=dict)
    sections: Mapping[str, Section] = field(factory=dict)
    format: str = field(default=FORMAT, validator=in_((FORMAT,)))
    schema: int = field(default=SCHEMA, validator=in_((SCHEMA,)))

    def __attrs_post_init__(self) -> None:
        _check_names(self.inputs, self.outputs)
        known = {info.name for info in self.inputs}
        for step in self.pipeline:
            if unknown := [name for name in step.inputs if name not in known]:
                raise ValueError(f"a step takes {unknown[0]!r}, which nothing before it gives")
            known.update(step.outputs)
        if unknown := [info.name for info in self.outputs if info.name not in known]:
            raise ValueError(f"no step gives the output {unknown[0]!r}")

    @property
    def backend(self) -> str:
        """Name of the backend that can load it."""
        return self.target.partition(":")[0]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every native program, in the order of the steps."""
        return tuple(variant for step in self.pipeline for variant in step.variants)

    @property
    def kernels(self) -> int:
        """Number of different kernels in all libraries."""
        return sum(variant.kernels for variant in self.variants)

    def shape_sets(self, given: Mapping[str, tuple[int, ...]] | None = None) -> tuple[tuple[TensorInfo, ...], ...]:
        """What `examples` gives, once for each set of shapes that the program was compiled for.

        Args:
            given: shapes of some inputs; only the sets that they are in, unless there is none.
        """
        asked = dict(given or {})
        sets = self.pipeline[0].shapes if len(self.pipeline) == 1 else ()
        fixed = [dict(filter(None, map(_fixed, infos))) for infos in sets]
        fitting = [x for x in fixed if all(x.get(name, shape) == shape for name, shape in asked.items())]
        return tuple(dict.fromkeys(self.examples({**x, **asked}) for x in fitting or [{}]))

    def examples(self, given: Mapping[str, tuple[int, ...]] | None = None) -> tuple[TensorInfo, ...]:
        """The inputs with shapes that go together: the first such set in which the given shapes are, if one has them.

        A symbol has the value that the given shapes show, or else its largest.

        Args:
            given: shapes of some inputs.
        """
        found: dict[str, TensorInfo] = {}
        for step in self.pipeline:
            fitting = [x for x in step.shapes if all(_takes(info, given or {}) for info in x)]
            chosen = (*fitting, *step.shapes)[0]
            sizes = {k: high for x in step.variants if x.inputs == chosen for k, (_, high) in x.symbols.items()}
            for info in chosen:
                shown = zip(info.shape, (given or {}).get(info.name, ()), strict=False)
                sizes |= {wanted: extent for wanted, extent in shown if wanted in sizes and isinstance(wanted, str)}
            for info in chosen:
                shape = tuple(sizes.get(n, n) if isinstance(n, str) else n for n in info.shape)
                found.setdefault(info.name, attrs.evolve(info, shape=shape))
        return tuple(found.get(info.name, info) for info in self.inputs)

    def to_json(self) -> bytes:
        """The manifest as stored: sorted keys, so that equal manifests are equal bytes."""
        return json.dumps(attrs.asdict(self), sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"


def _check_names(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> None:
    for what, tensors in (("input", inputs), ("output", outputs)):
        names = [info.name for info in tensors]
        if len(set(names)) < len(names):
            raise ValueError(f"two {what}s have one name: {', '.join(map(repr, names))}")


def _check_plain(info: TensorInfo) -> None:
    if not info.is_plain:
        raise ValueError(f"{info.name!r} is no tensor of numbers, which alone a program takes and gives: {info}")


def _fixed(info: TensorInfo) -> tuple[str, tuple[int, ...]] | None:
    """Name and shape, if every extent is a number."""
    shape = tuple(extent for extent in info.shape if isinstance(extent, int))
    return (info.name, shape) if len(shape) == len(info.shape) else None


def _takes(info: TensorInfo, given: Mapping[str, tuple[int, ...]]) -> bool:
    shape = given.get(info.name)
    return shape is None or (
        len(shape) == len(info.shape)
        and all(isinstance(wanted, str) or extent == wanted for extent, wanted in zip(shape, info.shape, strict=True))
    )


def parse_manifest(path: Path, text: bytes) -> Manifest:
    """The manifest of the artifact at `path`.

    Raises:
        ArtifactError: it is not valid, or of another version of the format.
    """
    try:
        return structure(Manifest, json.loads(text), MANIFEST)
    except (ValueError, RecursionError, ConfigError) as error:
        raise damaged(path, f"its manifest is wrong ({error})") from error
