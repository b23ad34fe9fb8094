"""The hooks. All but one *register named records*; configuration then picks records by name.

A plugin is a module named by an entry point of the group `tilewright.plugins`. It says for which version of
these hooks it was written, and implements the ones it needs:

    from tilewright.plugins import hookimpl

    TILEWRIGHT_API = 1

    @hookimpl
    def tilewright_slots():
        yield SlotValue("connect", "acme.greedy", "acme.connect:greedy")
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from tilewright.plugins.records import (
    Backend,
    DeviceEntry,
    Legalization,
    Options,
    Pass,
    RecipeEntry,
    Record,
    SlotValue,
    Target,
)

PROJECT = "tilewright"
API_VERSION = 1
"""Version of the hooks below. It grows when a hook or record changes in a way that breaks a plugin."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tilewright_slots() -> Iterable[SlotValue]:  # type: ignore[empty-body]
    """Registers values of slots: the services that make the decisions.

    Example:
        @hookimpl
        def tilewright_slots():
            yield SlotValue("propose", "acme.powers", "acme.propose:make", options="acme")
    """


@hookspec
def tilewright_passes() -> Iterable[Pass]:  # type: ignore[empty-body]
    """Registers passes that configuration may put before or after a stage.

    Example:
        @hookimpl
        def tilewright_passes():
            yield Pass("acme.layout", "acme.layout:run", points=("after.connect",))
    """


@hookspec
def tilewright_recipes() -> Iterable[RecipeEntry]:  # type: ignore[empty-body]
    """Registers recipes, each with the lowering that emits it.

    Example:
        @hookimpl
        def tilewright_recipes():
            yield RecipeEntry("acme.row", "cpu", "acme.recipes:row", "acme.emit:row")
    """


@hookspec
def tilewright_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Registers backends: a builder and a loader for one kind of target.

    Example:
        @hookimpl
        def tilewright_backends():
            yield Backend("npu", "acme.build:build", "acme.load:load", "acme.build:versions")
    """


@hookspec
def tilewright_device_models() -> Iterable[DeviceEntry]:  # type: ignore[empty-body]
    """Registers device models, so that planning for a device needs none.

    Example:
        @hookimpl
        def tilewright_device_models():
            yield DeviceEntry("npu1", "npu", "acme.devices:npu1")
    """


@hookspec
def tilewright_legalizations() -> Iterable[Legalization]:  # type: ignore[empty-body]
    """Registers the meaning of ONNX operators that the core does not know, or of another domain's.

    Example:
        @hookimpl
        def tilewright_legalizations():
            yield Legalization("Swish", "acme.legalize:swish", domain="com.acme")
    """


@hookspec
def tilewright_options() -> Iterable[Options]:  # type: ignore[empty-body]
    """Registers options: the frozen attrs class behind a table `[options.NAME]`.

    Example:
        @hookimpl
        def tilewright_options():
            yield Options("acme", "acme.options:AcmeOptions")
    """


@hookspec(firstresult=True)
def tilewright_parse_target(text: str) -> Target | None:
    """Recognises a target string: returns it parsed and made definite, or None for "not mine".

    The first plugin that answers wins. A string that is this plugin's but wrong raises `InputError`.

    Example:
        @hookimpl
        def tilewright_parse_target(text):
            backend, _, device = text.partition(":")
            return Target("npu", device or "npu1") if backend == "npu" else None
    """


RECORD_HOOKS: dict[str, type[Record]] = {
    "tilewright_slots": SlotValue,
    "tilewright_passes": Pass,
    "tilewright_recipes": RecipeEntry,
    "tilewright_backends": Backend,
    "tilewright_device_models": DeviceEntry,
    "tilewright_legalizations": Legalization,
    "tilewright_options": Options,
}
"""The registering hooks and the record class of each."""
