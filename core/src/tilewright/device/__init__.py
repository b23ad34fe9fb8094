"""Device models: what a device can do, in numbers. Planning reads nothing else about the hardware."""

from tilewright.device.model import DeviceModel, MemoryLevel, load_device, parse_device
from tilewright.device.probe import cpu_flags, cpu_model

__all__ = [
    "DeviceModel",
    "MemoryLevel",
    "cpu_flags",
    "cpu_model",
    "load_device",
    "parse_device",
]
