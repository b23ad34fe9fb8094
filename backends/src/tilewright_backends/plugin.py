"""The backends as a plugin: targets, device models, recipes, builders and loaders, through the public hooks."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from tilewright.plugins.hookspecs import hookimpl
from tilewright.plugins.records import Backend, DeviceEntry, RecipeEntry, Target
from tilewright_backends import cpus, gpus

TILEWRIGHT_API = 1

_CPU_RECIPES = ("contraction", "nest", "rows", "scan", "scatter", "topk")
_CUDA_RECIPES = ("attention", "chain", "chain_wgmma", "mma", "thin", "wgmma", "wgmma_ring")
_ROCM_RECIPES = ("attention", "matrix")
_GPU_RECIPES = (
    "attention_simt",
    "map",
    "reduce",
    "rows",
    "scan",
    "scatter",
    "simt",
    "stages",
    "topk",
    "topk_sort",
    "window",
)


@hookimpl
def tilewright_backends() -> Iterable[Backend]:
    """One builder and loader per kind of target."""
    yield Backend(
        "cpu",
        "tilewright_backends.build.cpu:build",
        "tilewright_backends.load:load_cpu",
        "tilewright_backends.tvm_env:versions",
        "tilewright_backends.load:device",
    )
    yield Backend(
        "cuda",
        "tilewright_backends.build.cuda.builder:build",
        "tilewright_backends.load_cuda:load_cuda",
        "tilewright_backends.build.cuda.versions:versions",
        "tilewright_backends.load_cuda:device",
    )
    yield Backend(
        "rocm",
        "tilewright_backends.build.rocm.builder:build",
        "tilewright_backends.load_rocm:load_rocm",
        "tilewright_backends.build.rocm.versions:versions",
        "tilewright_backends.load_rocm:device",
    )


@hookimpl
def tilewright_device_models() -> Iterable[DeviceEntry]:
    """Every CPU that LLVM can generate code for, and the GPUs."""
    for name in cpus.NAMES:
        yield DeviceEntry(name, "cpu", functools.partial(cpus.model, name))
    for backend, family in gpus.FAMILIES.items():
        for name in family:
            yield DeviceEntry(name, backend, functools.partial(gpus.model, backend, name))


@hookimpl
def tilewright_recipes() -> Iterable[RecipeEntry]:
    """What the emitters can do."""
    for name in _CPU_RECIPES:
        yield RecipeEntry(
            f"cpu.{name}",
            "cpu",
            f"tilewright_backends.recipes.cpu.{name}:RECIPE",
            f"tilewright_backends.emit.cpu.{name}:emit",
        )
    for kind, names in (("cuda", _CUDA_RECIPES), ("rocm", _ROCM_RECIPES)):
        for name in names:
            yield RecipeEntry(
                f"{kind}.{name}",
                kind,
                f"tilewright_backends.recipes.{kind}.{name}:RECIPE",
                f"tilewright_backends.emit.{kind}.{name}:emit",
            )
    for kind in gpus.FAMILIES:
        for name in _GPU_RECIPES:
            emitter = f"{kind}.stage_product" if name == "stages" else f"gpu.{name}"
            yield RecipeEntry(
                f"{kind}.{name}",
                kind,
                f"tilewright_backends.recipes.gpu.{name}:{kind.upper()}",
                f"tilewright_backends.emit.{emitter}:emit",
            )


@hookimpl
def tilewright_parse_target(text: str) -> Target | None:
    """`cpu` (this machine's) and `cpu:MCPU`; `cuda:DEVICE` and `cuda:sm_NN`; `rocm:DEVICE` and `rocm:gfxNN`."""
    backend, _, device = text.partition(":")
    if backend == "cpu":
        return Target("cpu", cpus.resolve(device))
    if backend in gpus.FAMILIES:
        return Target(backend, gpus.resolve(backend, device))
    return None
