"""The worker's side of a self-check: makes one item, an artifact with inputs and the outputs that it must give."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import numpy as np
import onnx

from tilewright.api import compile_artifact, settings_for
from tilewright.arrays import save_arrays
from tilewright.artifact import Artifact, Manifest
from tilewright.assemble import build_planned
from tilewright.bench.engines import ENGINES
from tilewright.compiler import Plan, recipes_of
from tilewright.config.binding import Settings
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.plugins.records import Backend
from tilewright.runtime.native import Array
from tilewright.runtime.random_feeds import random_feeds
from tilewright.testing.conformance import example, reference
from tilewright.testing.control import control_case
from tilewright.testing.reference import Reference
from tilewright.testing.seeded import light_model, light_names

PROGRAM, INPUTS, OUTPUTS, FACTS = "program.tw", "inputs.safetensors", "outputs.safetensors", "item.json"
"""What the folder of an item holds."""


@attrs.frozen
class Made:
    """An artifact's manifest, inputs by name, the outputs it must give, and what these are from."""

    manifest: Manifest
    feeds: Mapping[str, Array]
    wanted: Sequence[Array]
    against: str


def items_of(settings: Settings) -> list[str]:
    """All items for a target: a kernel by each of its recipes, the light models, and control flow."""
    kernels = [f"kernel/{name}" for name in sorted(recipes_of(settings))]
    return [*kernels, *(f"light/{name}" for name in light_names()), "control/0"]


def listed(argument: dict[str, Any]) -> Callable[[Any], list[str]]:
    """Task: the names of all items for `target` and `config`."""
    settings = settings_for(argument["target"], argument["config"])
    return lambda request: items_of(settings)


def prepare(argument: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """Task: makes `item` for `target` and `config` in `folder`, and gives what it wrote to `item.json`.

    It runs on a machine that compiles for the target, which need not be one that has it.
    """

    def handle(request: Any) -> dict[str, Any]:
        settings = settings_for(argument["target"], argument["config"])
        kind, _, name = argument["item"].partition("/")
        folder = Path(argument["folder"])
        folder.mkdir(parents=True)
        start = time.perf_counter()
        made = _MAKERS[kind](name, settings, folder / PROGRAM, argument["threads"])
        seconds = time.perf_counter() - start
        save_arrays(folder / INPUTS, list(made.feeds.values()))
        save_arrays(folder / OUTPUTS, _as_declared(made))
        facts = {
            "item": argument["item"],
            "inputs": list(made.feeds),
            "outputs": [x.name for x in made.manifest.outputs],
            "against": made.against,
            "kernels": made.manifest.kernels,
            "prepare_seconds": seconds,
            "versions": dict(made.manifest.versions),
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        return facts

    return handle


def device(argument: dict[str, Any]) -> Callable[[Any], dict[str, str]]:
    """Task: what the backend says of the device that programs for `target` run on here."""
    settings = settings_for(argument["target"], argument["config"])
    entry = settings.registry.get(Backend, settings.target.backend)
    if entry.device is None:
        return lambda request: {}
    found: Callable[[], Mapping[str, str]] = settings.registry.code(entry, entry.device)
    return lambda request: dict(found())


def _as_declared(made: Made) -> list[Array]:
    """The wanted outputs in the dtypes that the program gives: references compute in wider ones."""
    return [
        np.ascontiguousarray(array).astype(dtypes.to_numpy(info.dtype))
        for info, array in zip(made.manifest.outputs, made.wanted, strict=True)
    ]


def _kernel(recipe: str, settings: Settings, path: Path, threads: int) -> Made:
    found = example(recipe, settings)
    if found is None:
        raise InputError(f"The corpus has no kernel that recipe {recipe} could run on {settings.target}.")
    case, program = found
    names = tuple(x.name for x in program.outputs)
    manifest = build_planned(Plan(attrs.evolve(program, output_names=names), (), {}), case.name, settings, path)
    feeds = {x.name: np.asarray(case.feeds[x.name]) for x in manifest.inputs}
    return Made(manifest, feeds, reference(case), "ONNX's reference evaluator in float64")


def _compiled(model: onnx.ModelProto, settings: Settings, path: Path) -> Manifest:
    artifact, _ = compile_artifact(model, settings, cache=False)
    with artifact:
        artifact.copy_to(path)
    with Artifact(path) as opened:
        return opened.manifest


def _light(name: str, settings: Settings, path: Path, threads: int) -> Made:
    model = light_model(name)
    manifest = _compiled(model, settings, path)
    feeds = random_feeds(manifest.examples())
    engine = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "reference"
    with TemporaryDirectory(prefix="tilewright-") as folder:
        file = Path(folder, "model.onnx")
        onnx.save(model, file)
        wanted = ENGINES[engine](str(file), feeds, threads)()
    return Made(manifest, feeds, wanted, {"onnxruntime": "ONNX Runtime"}.get(engine, "ONNX's reference evaluator"))


def _control(seed: str, settings: Settings, path: Path, threads: int) -> Made:
    case = control_case(int(seed))
    manifest = _compiled(case.model, settings, path)
    feeds = {x.name: np.asarray(case.feeds[x.name]) for x in manifest.inputs}
    wanted = Reference(case.model.opset_import[0].version).graph(case.model.graph, case.feeds)
    return Made(manifest, feeds, wanted, "ONNX's reference evaluator")


_MAKERS: dict[str, Callable[[str, Settings, Path, int], Made]] = {
    "kernel": _kernel,
    "light": _light,
    "control": _control,
}
