"""Compiling the model that an artifact holds for the inputs at hand."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.api import compile_modules
from tilewright.artifact import Artifact, Model
from tilewright.artifact.errors import damaged
from tilewright.compiler import load_module
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.frontend.source import restored
from tilewright.frontend.steering import specialised
from tilewright.ir import dtypes
from tilewright.ir.module import Module
from tilewright.plugins.manager import Registry
from tilewright.runtime.native import Array


class Specialiser:
    """A model in an artifact, read and ready to be compiled.

    Args:
        artifact: which holds it.
        registry: where the names of its configuration are looked up.
    """

    def __init__(self, artifact: Artifact, model: Model, registry: Registry) -> None:
        pool = artifact.weights()
        try:
            weights = {
                name: pool[weight.stored].view(dtypes.to_numpy(weight.dtype)) for name, weight in model.weights.items()
            }
        except (KeyError, ValueError, TypeError) as error:
            raise damaged(artifact.path, f"the weights of its model are not what it says ({error})") from error
        self._source = restored(artifact.read(model.section), weights)
        self._settings = bind(load_config(model.config), registry)
        self._name = artifact.manifest.model
        self._always: frozenset[str] | None = None

    def compiled(self, feeds: Mapping[str, Array], *, cache: bool) -> tuple[tuple[str, ...], Artifact, float | None]:
        """The program for the shapes of the inputs and the values of those that decide shapes.

        Returns:
            The inputs that are bound to their values, in the model's order; the artifact, open; and the seconds that
            its compilation took, None if the cache had it.

        Raises:
            InputError: the model cannot be compiled for these.
        """
        shapes = {name: array.shape for name, array in feeds.items()}

        def loaded(bound: Mapping[str, Array]) -> Module:
            return load_module(self._source, self._settings, shapes, bind=bound)

        # What every program so far had to know need not be found out by trying.
        module, values = specialised(loaded, feeds, self._always or ())
        self._always = frozenset(values) if self._always is None else self._always & frozenset(values)
        bound = tuple(name for name in feeds if name in values)
        artifact, seconds = compile_modules([module], self._name, self._settings, cache=cache)
        return bound, artifact, seconds
