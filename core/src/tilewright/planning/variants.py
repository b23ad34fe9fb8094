"""Some launches as a program of their own, so that several ways to run the same kernels can be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.ir.module import Constant
from tilewright.ir.ops import Value
from tilewright.ir.program import Launch, Program, Task
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.kernels import KernelTable
from tilewright.planning.requests import Planned
from tilewright.planning.storage import allocate


def launches_program(
    planned: Sequence[Planned], launches: Sequence[Launch], table: KernelTable, tensors: Mapping[str, Constant]
) -> Program:
    """A program that runs nothing but `launches`, which do what `planned` asks for.

    Its outputs are all that they write, its inputs what they read beside that and beside constants.

    Args:
        table: the kernels of the launches' tasks, and packed constants.
        tensors: the constants by name.
    """
    tasks = [task for launch in launches for task in tasks_of(launch.body)]
    values = {name: value for task in tasks for name, value in _actual(task, table).items()}
    written: dict[str, None] = {}
    read: dict[str, None] = {}
    for item in planned:
        outputs = len(item.kernel.group.outputs)
        read |= dict.fromkeys(item.args[:-outputs])
        written |= dict.fromkeys(item.args[-outputs:])
    known = {*tensors, *table.packed}
    inputs = [values[x] for x in read if x not in written and x not in known]
    outputs_ = [values[x] for x in written]
    packed = {x: table.packed[x] for x in values if x in table.packed}
    plain = [x for x in values if x in tensors]
    weights = [tensors[x].value(x) for x in plain] + [x.value for x in packed.values()]
    kernels = {task.kernel: table.kernels[task.kernel] for task in tasks}
    # A kernel may be that of another place, whose constants still say what its parameters mean.
    packed |= {x.name: table.packed[x.name] for k in kernels.values() for _, x in k.packed}
    needed = {*plain, *(x.access.value.name for x in packed.values())}
    needed |= {v.name for k in kernels.values() for v in k.group.inputs if v.name in tensors}
    return Program(
        inputs=tuple(inputs),
        outputs=tuple(outputs_),
        kernels=kernels,
        body=tuple(launches),
        storage=allocate(launches, values, inputs, outputs_, weights, kernels=kernels),
        constants={x: tensors[x] for x in needed},
        packed=packed,
        input_names=tuple(x.name for x in inputs),
        output_names=tuple(x.name for x in outputs_),
    )


def _actual(task: Task, table: KernelTable) -> dict[str, Value]:
    """The values that a task names, as its kernel takes them."""
    params = table.kernels[task.kernel].params
    return {name: Value(name, p.dtype, p.shape) for name, p in zip(task.args, params, strict=True)}
