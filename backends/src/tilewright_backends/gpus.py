"""Target names of NVIDIA GPUs."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel, load_device
from tilewright.errors import InputError, did_you_mean

DEVICES = ("a100", "h100", "h200", "v100")
"""Devices with a model that ships with the core."""

BY_ARCH = {"sm_80": "a100", "sm_90a": "h100"}
"""Architectures that a target may name instead of a device, and whose model stands for them."""


def resolve(device: str) -> str:
    """The definite name for what follows `cuda:`.

    Raises:
        InputError: nothing follows, or an unknown name.
    """
    if device in DEVICES or device in BY_ARCH:
        return device
    known = [*DEVICES, *BY_ARCH]
    if not device:
        raise InputError("The target `cuda` needs a device.", f"Name one of {', '.join(f'cuda:{x}' for x in known)}.")
    raise InputError(f"There is no CUDA device {device!r}.", did_you_mean(device, known))


def model(device: str) -> DeviceModel:
    """The device model of a device or of an architecture."""
    return attrs.evolve(load_device(BY_ARCH.get(device, device)), name=device)


def arch(device: str) -> str:
    """The architecture that code is generated for."""
    return load_device(BY_ARCH.get(device, device)).arch
