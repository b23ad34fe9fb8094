"""Target names of NVIDIA's and AMD's GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from tilewright.device import DeviceModel, load_device
from tilewright.errors import InputError, did_you_mean


@attrs.frozen
class Family:
    """The devices of a backend.

    Args:
        title: what users call the backend.
        devices: those with a model that ships with the core.
        by_arch: architectures that a target may name instead of a device, and whose model stands for them.
    """

    title: str
    devices: tuple[str, ...]
    by_arch: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        """Everything that may follow the colon of a target."""
        return iter((*self.devices, *self.by_arch))


FAMILIES = {
    "cuda": Family("CUDA", ("a100", "h100", "h200", "v100"), {"sm_80": "a100", "sm_90a": "h100"}),
    "rocm": Family(
        "ROCm",
        ("mi210", "mi250x", "mi300x", "rx7900xtx", "rx9070"),
        {"gfx90a": "mi210", "gfx942": "mi300x", "gfx1100": "rx7900xtx", "gfx1201": "rx9070"},
    ),
}
"""By the name of the backend."""


def resolve(backend: str, device: str) -> str:
    """The definite name for what follows the backend's name and a colon.

    Raises:
        InputError: nothing follows, or an unknown name.
    """
    family = FAMILIES[backend]
    known = list(family)
    if device in known:
        return device
    if not device:
        named = ", ".join(f"{backend}:{x}" for x in known)
        raise InputError(f"The target `{backend}` needs a device.", f"Name one of {named}.")
    raise InputError(f"There is no {family.title} device {device!r}.", did_you_mean(device, known))


def model(backend: str, device: str) -> DeviceModel:
    """The device model of a device or of an architecture."""
    return attrs.evolve(load_device(FAMILIES[backend].by_arch.get(device, device)), name=device)


def arch(backend: str, device: str) -> str:
    """The architecture that code is generated for."""
    return model(backend, device).arch
