"""Weights in the memory of a device: one copy for all programs of this process that read one place of host memory.

The variants of an artifact share their weights so: they are mapped once, so equal weights have equal addresses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs

from tilewright.runtime.native import Array


@attrs.define
class _Copy:
    address: int
    host: Array  # held, so that nothing else gets its address
    users: int = 1


class DeviceWeights:
    """The copies on one device, with how many programs use each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: dict[tuple[int, int], _Copy] = {}

    def take(self, host: Array, make: Callable[[Array], int]) -> int:
        """The device address of a copy of `host`, which must not change any more.

        Args:
            make: makes a copy where there is none, and returns once it is complete.
        """
        with self._lock:
            copy = self._copies.get(_place(host))
            if copy is None:
                copy = self._copies[_place(host)] = _Copy(make(host), host)
            else:
                copy.users += 1
            return copy.address

    def give_back(self, host: Array, free: Callable[[int], None]) -> None:
        """Undoes one `take`; the last one frees the copy."""
        with self._lock:
            copy = self._copies[_place(host)]
            copy.users -= 1
            if not copy.users:
                del self._copies[_place(host)]
                free(copy.address)


def _place(host: Array) -> tuple[int, int]:
    return host.ctypes.data, host.nbytes


SHARED = DeviceWeights()
"""Those of device 0, the one that programs run on."""
