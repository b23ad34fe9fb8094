"""Compiling the model that an artifact holds for the inputs at hand."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.api import compile_modules, compile_parts
from tilewright.artifact import Artifact, Model
from tilewright.compiler import load_module
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.errors import UnsupportedError
from tilewright.frontend.partition import MOST_STEERING
from tilewright.frontend.source import restored
from tilewright.frontend.steering import specialised
from tilewright.ir.module import Module
from tilewright.partitioned import partitioned, report
from tilewright.plugins.manager import Registry
from tilewright.runtime.native import Array


class Specialiser:
    """A model in an artifact, read and ready to be compiled.

    Args:
        artifact: which holds it.
        registry: where the names of its configuration are looked up.
        threads: worker threads of the programs.
    """

    def __init__(self, artifact: Artifact, model: Model, registry: Registry, threads: int) -> None:
        self._source = restored(*artifact.model(model))
        self._settings = bind(load_config(model.config), registry, threads)
        self._name = artifact.manifest.model
        self._always: frozenset[str] | None = None
        self._reported: set[str] = set()

    def compiled(self, feeds: Mapping[str, Array], *, cache: bool) -> tuple[tuple[str, ...], Artifact, float | None]:
        """The program for the shapes of the inputs and the values of those that decide shapes.

        Returns:
            The inputs that are bound to their values, in the model's order; the artifact, open; and the seconds that
            its compilation took, None if the cache had it.

        Raises:
            InputError: the model cannot be compiled for these.
        """
        shapes = {name: array.shape for name, array in feeds.items()}

        asked: Mapping[str, Array] = {}

        def loaded(bound: Mapping[str, Array]) -> Module:
            nonlocal asked
            asked = dict(bound)
            return load_module(self._source, self._settings, shapes, bind=bound)

        # What every program so far had to know need not be found out by trying.
        start = self._always or ()
        try:
            module, values = specialised(loaded, feeds, start, MOST_STEERING)
        except UnsupportedError as error:
            made = partitioned(self._source, self._settings, shapes, asked, error, jit=True)
            if made is not None:
                report([x for x in made.fallen if x.node not in self._reported])
                self._reported.update(x.node for x in made.fallen)
                artifact, seconds = compile_parts(made, self._name, self._settings, cache=cache)
                return tuple(name for name in feeds if name in asked), artifact, seconds
            module, values = specialised(loaded, feeds, start)
        self._always = frozenset(values) if self._always is None else self._always & frozenset(values)
        bound = tuple(name for name in feeds if name in values)
        artifact, seconds = compile_modules([module], self._name, self._settings, cache=cache)
        return bound, artifact, seconds
