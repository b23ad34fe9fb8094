"""What this distribution registers. Importing it is cheap: the code behind each record is imported on use."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plugins import Legalization, Options, Pass, SlotValue, hookimpl

TILEWRIGHT_API = 1


@hookimpl
def tilewright_slots() -> Iterable[SlotValue]:
    """A connector."""
    yield SlotValue("connect", "acme.chains", "acme_tilewright.chains:make", options="acme")


@hookimpl
def tilewright_passes() -> Iterable[Pass]:
    """A pass on the imported model."""
    yield Pass("acme.relu_once", "acme_tilewright.relu_once:run", ("after.import",))


@hookimpl
def tilewright_legalizations() -> Iterable[Legalization]:
    """An operator that the core does not know."""
    yield Legalization("Binarizer", "acme_tilewright.binarizer:binarizer", domain="ai.onnx.ml")


@hookimpl
def tilewright_options() -> Iterable[Options]:
    """The table `[options.acme]`."""
    yield Options("acme", "acme_tilewright.chains:ChainOptions")
