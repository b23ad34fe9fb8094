"""Device models: what a device can do, in numbers. Planning reads nothing else about the hardware."""

from tilewright.device.model import DeviceModel, MemoryLevel, load_device, parse_device

__all__ = ["DeviceModel", "MemoryLevel", "load_device", "parse_device"]
