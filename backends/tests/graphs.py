"""What is inside a captured CUDA graph, and host programs of which the device decides all loops and branches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import attrs

from tilewright.ir.program import HostIf, HostLoop, HostStep, Program
from tilewright_backends.load_cuda import CudaProgram

CONDITIONAL = 13
"""CUDA's number for nodes that are loops and branches."""
_RELAXED = 2


def decided_by_the_device(program: Program) -> Program:
    """The program with every loop and branch marked."""
    return attrs.evolve(program, body=_marked(program.body))


def _marked(steps: Sequence[HostStep]) -> tuple[HostStep, ...]:
    made: list[HostStep] = []
    for step in steps:
        match step:
            case HostLoop():
                made.append(attrs.evolve(step, graph=True, body=_marked(step.body)))
            case HostIf():
                made.append(attrs.evolve(step, graph=True, then=_marked(step.then), orelse=_marked(step.orelse)))
            case _:
                made.append(step)
    return tuple(made)


def node_types(program: CudaProgram) -> list[int]:
    """CUDA's numbers for the types of the nodes of the program's graph, without those inside others.

    The program has run in this thread before.
    """
    cuda, graph, count = program._cuda, ctypes.c_void_p(), ctypes.c_size_t()
    cuda("cudaStreamSynchronize", program._stream)
    cuda("cudaStreamBeginCapture", program._stream, _RELAXED)
    program._main(program._table.pointer)
    program._check_control()
    cuda("cudaStreamEndCapture", program._stream, ctypes.byref(graph))
    cuda("cudaGraphGetNodes", graph, None, ctypes.byref(count))
    nodes = (ctypes.c_void_p * count.value)()
    cuda("cudaGraphGetNodes", graph, nodes, ctypes.byref(count))
    found = []
    for node in nodes:
        kind = ctypes.c_int()
        cuda("cudaGraphNodeGetType", ctypes.c_void_p(node), ctypes.byref(kind))
        found.append(kind.value)
    cuda("cudaGraphDestroy", graph)
    return found
