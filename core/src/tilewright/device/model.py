"""The device model and its TOML form."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import attrs
import cattrs

from tilewright.errors import InputError

_REGISTER_STEP = 8
"""Registers of a thread are allotted in multiples of this."""
_SYSTEM_SHARED = 1024
"""Bytes of shared memory that CUDA takes for each block (from compute capability 8.0 on)."""


@attrs.frozen
class MemoryLevel:
    """One level of the memory hierarchy.

    Args:
        name: "dram", "infinity" (a cache of memory behind the second level), "l2", "l1", "shared" or "register".
        bytes: capacity; per unit for the levels that a unit owns, of the whole device otherwise.
        bandwidth: bytes per second of the whole device, all units together.
        transaction: bytes of the smallest efficient access (cache line, sector, DRAM burst).
        shared_by_units: whether all units share it.
        latency: seconds from a load to its value, 0 when unknown.
    """

    name: str
    bytes: int
    bandwidth: float
    transaction: int = 64
    shared_by_units: bool = False
    latency: float = 0.0


@attrs.frozen
class DeviceModel:
    """What a device can do.

    Args:
        name: such as "h200".
        kind: "cpu", "cuda" or "rocm".
        arch: what the code generator calls it ("sm_90a", "znver4", "gfx942").
        units: streaming multiprocessors, compute units or cores (threads that the program may use on a CPU).
        peak: arithmetic operations per second of the whole device by unit name ("fma" for float32; "fp16.tensor", …).
        levels: memory levels, from the farthest to the nearest.
        vector_bytes: width of a vector register (CPU) or of the widest memory access (GPU).
        vector_registers: number of vector registers (CPU).
        vector_fmas: multiply-adds of whole vectors that a core begins in a cycle (CPU).
        warp: threads that run in lockstep, 1 on a CPU.
        max_threads_per_block: 0 on a CPU.
        max_threads_per_unit: 0 on a CPU.
        max_blocks_per_unit: 0 on a CPU.
        registers_per_unit: 32-bit registers, 0 on a CPU.
        shared_per_block: bytes that one block may use, 0 on a CPU.
        banks: shared memory banks of 4 bytes.
        launch_seconds: cost of starting a kernel (GPU: inside a CUDA graph) or a parallel region.
        barrier_seconds: cost of a barrier over all units.
        cooperative: whether a launch can ask for all of its units to be at work at once. Where it cannot, no unit may
            wait for another. AMD's GPUs could, but TVM's runtime starts their kernels without that promise.
        step_seconds: cost of a step that cannot overlap with another: a barrier within a unit, a load that waits.
        features: names such as "mma.sync", "wgmma", "tma", "avx512f".
        plan_only: why no code can be generated for it, or "".
    """

    name: str
    kind: str
    arch: str
    units: int
    peak: Mapping[str, float]
    levels: tuple[MemoryLevel, ...]
    vector_bytes: int = 16
    vector_registers: int = 32
    vector_fmas: int = 2
    warp: int = 1
    max_threads_per_block: int = 0
    max_threads_per_unit: int = 0
    max_blocks_per_unit: int = 0
    registers_per_unit: int = 0
    shared_per_block: int = 0
    banks: int = 32
    launch_seconds: float = 1e-6
    barrier_seconds: float = 1e-6
    step_seconds: float = 30e-9
    cooperative: bool = True
    features: tuple[str, ...] = ()
    plan_only: str = ""

    def level(self, name: str) -> MemoryLevel:
        """The memory level called `name`. Raises InputError when the model has none."""
        for level in self.levels:
            if level.name == name:
                return level
        raise InputError(
            f"device model {self.name} has no memory level {name!r}; it has {', '.join(x.name for x in self.levels)}."
        )

    def with_units(self, units: int) -> DeviceModel:
        """The device for a program that uses `units` of its units. What units share farthest away stays as fast."""
        share = units / self.units
        far, *near = self.levels
        return attrs.evolve(
            self,
            units=units,
            peak={name: rate * share for name, rate in self.peak.items()},
            levels=(far, *(attrs.evolve(x, bandwidth=x.bandwidth * share) for x in near)),
        )

    def holding(self, weight_bytes: int) -> DeviceModel:
        """The device as a program finds it whose weights lie in a cache that all units share, from one run to the next.

        That is the nearest such level that has room for as much again; where none has, it is the device itself.
        """
        far, *near = self.levels
        holding = [x for x in near if x.shared_by_units and x.bytes >= 2 * weight_bytes]
        if not holding:
            return self
        return attrs.evolve(self, levels=(attrs.evolve(far, bandwidth=holding[-1].bandwidth), *near))

    def blocks_held(self, threads: int, registers: int = 0, shared_bytes: int = 0) -> int:
        """How many blocks of a kernel one unit holds at a time, as NVIDIA's occupancy calculator counts; 1 on a CPU.

        Args:
            threads: of a block.
            registers: of a thread; 0 leaves them out.
            shared_bytes: of a block, without what the system takes of each.
        """
        if self.kind == "cpu":
            return 1
        warps = -(-max(threads, 1) // self.warp)
        limits = [max(self.max_blocks_per_unit, 1)]
        if self.max_threads_per_unit:
            limits.append(self.max_threads_per_unit // (warps * self.warp))
        if self.registers_per_unit and registers:
            each = -(-registers // _REGISTER_STEP) * _REGISTER_STEP * self.warp
            limits.append(self.registers_per_unit // each // warps)
        if shared_bytes:
            system = _SYSTEM_SHARED if self.kind == "cuda" else 0
            limits.append(self.level("shared").bytes // (shared_bytes + system))
        return min(limits)

    def blocks_together(self, threads: int, registers: int = 0, shared_bytes: int = 0) -> int:
        """How many blocks of a kernel the whole device holds at a time; see `blocks_held`."""
        return self.units * self.blocks_held(threads, registers, shared_bytes)

    def has(self, feature: str) -> bool:
        return feature in self.features


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)


def parse_device(text: str, source: str) -> DeviceModel:
    """Reads a device model from TOML. Raises InputError naming `source` when it is not one."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
        return _CONVERTER.structure(table, DeviceModel)
    except (tomllib.TOMLDecodeError, cattrs.BaseValidationError) as error:
        reasons = (
            "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else str(error)
        )
        raise InputError(f"{source} is not a device model: {reasons}.") from error


def load_device(name: str) -> DeviceModel:
    """One of the device models that ship with the core. Raises InputError listing them for an unknown name."""
    folder = resources.files("tilewright.device").joinpath("models")
    file = folder.joinpath(f"{name}.toml")
    if not name.isidentifier() or not file.is_file():
        known = sorted(x.name.removesuffix(".toml") for x in folder.iterdir() if x.name.endswith(".toml"))
        raise InputError(f"There is no device model {name!r}.", f"Known ones: {', '.join(known)}.")
    return parse_device(file.read_text(encoding="utf-8"), f"device model {name}")
