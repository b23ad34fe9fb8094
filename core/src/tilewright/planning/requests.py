"""What a slot's service is told, and the signatures of the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Cover, Group
from tilewright.ir.module import Module
from tilewright.ir.ops import Region
from tilewright.ir.program import Envelope, Kernel, Launch, Program, Step
from tilewright.recipes import Columns, Match

if TYPE_CHECKING:
    from tilewright.planning.session import Session


@attrs.frozen
class Context:
    """Where in the control tree something is planned.

    Args:
        trips: how often it runs, as far as is known.
        level: where the control around it is on trial: "host", or "grid": inside a launch, where starting another
            kernel costs a barrier at most.
    """

    trips: int = 1
    level: str = "host"


@attrs.frozen
class Request:
    """What every service is told.

    Args:
        session: the services of the other slots, by which techniques meet without naming each other.
        envelope: what a launch may occupy, or None when nothing limits it yet.
        context: enclosing loops.
        resident: names of values to keep on chip.
        budget: seconds that the answer may take, or None.
        estimate: the answer is compared with many others and mostly dropped: costs are predicted, not measured.
        function: the function that is placed, "" for the host program.
    """

    session: Session
    envelope: Envelope | None = None
    context: Context = Context()
    resident: tuple[str, ...] = ()
    budget: float | None = None
    estimate: bool = False
    function: str = ""


@attrs.frozen
class Planned:
    """A group in its place.

    Args:
        group: the group as it stands in the cover.
        choices: the ranked choices for it; a scheduler may take any of them by asking `Session.plan` for it.
        kernel: the kernel of the first choice, shared by all equal groups.
        args: names of the actual values, in the order of the kernel's parameters.
    """

    group: Group
    choices: tuple[TileChoice, ...]
    kernel: Kernel
    args: tuple[str, ...]


class ControlRewrite(Protocol):
    """`control_rewrite`: changes the control flow of a module without changing what it computes."""

    def __call__(self, module: Module, request: Request) -> Module:
        """The module to go on with."""


class Connect(Protocol):
    """`connect`: which operators share a kernel, and the level of each edge between them."""

    def __call__(self, region: Region, request: Request) -> Cover:
        """A cover of the region."""


class Propose(Protocol):
    """`propose`: how a group may be cut into tiles."""

    def __call__(self, group: Group, request: Request) -> tuple[TileChoice, ...]:
        """A ranked, undominated set of choices, best first; empty when no recipe matches the group."""


class Cost(Protocol):
    """`cost`: predicted seconds of a kernel for many choices at once."""

    def __call__(self, match: Match, columns: Columns, device: DeviceModel) -> npt.NDArray[np.float64]:
        """One number per row of `columns`."""


class Schedule(Protocol):
    """`schedule`: which tasks run on which unit, in which order, behind which waits."""

    def __call__(self, planned: Sequence[Planned], request: Request) -> tuple[Launch, ...]:
        """Launches for groups without control flow between them, in order."""


class Place(Protocol):
    """`control_place`: where loops and branches run."""

    def __call__(self, cover: Cover, request: Request) -> tuple[Step, ...]:
        """The host tree of a covered region; of a function that launches call, parts that their units run together."""


class Planner(Protocol):
    """`planner`: calls the other slots and commits their answers."""

    def __call__(self, module: Module, session: Session) -> Program:
        """The program of a legalised module."""


@attrs.frozen
class Decision:
    """One entry of the decision record, which `explain`, reports and replay read.

    Args:
        slot: whose decision it is.
        subject: what it is about (a group's or loop's name).
        chosen: the choice, in words or numbers.
        alternatives: what else was considered.
        costs: predicted seconds, the chosen one's first.
        why: one sentence.
    """

    slot: str
    subject: str
    chosen: Any
    alternatives: tuple[Any, ...] = ()
    costs: tuple[float, ...] = ()
    why: str = ""
