"""A step that holds a model and compiles it when the shapes of its inputs, and values that decide shapes, are known.

The programs are kept, the ones used last; compiling goes through the cache of compiled programs where that is allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import evolve, field, frozen
from attrs.validators import ge

from tilewright.artifact import Artifact, Step
from tilewright.errors import InputError
from tilewright.plugins.errors import PluginError
from tilewright.plugins.manager import Registry
from tilewright.runtime.feeds import symbols_of
from tilewright.runtime.native import Array
from tilewright.runtime.stats import Stats
from tilewright.runtime.variants import no_shapes


@frozen
class Jit:
    """Whether and how models may be compiled when a program runs.

    Args:
        allowed: whether at all.
        cache: whether the cache of compiled programs is used.
        most: programs that a step keeps for different values.
    """

    allowed: bool = True
    cache: bool = True
    most: int = field(default=16, validator=ge(1))


def as_jit(jit: Jit | bool, *, cache: bool = True) -> Jit:
    """What `jit=` means, where only whether is said too; without `cache` the cache is not used in any case."""
    found = jit if isinstance(jit, Jit) else Jit(allowed=jit)
    return evolve(found, cache=found.cache and cache)


class Program(Protocol):
    """A compiled program that a step runs."""

    def run(self, given: Sequence[Any]) -> list[Any]:
        """The outputs for the inputs, both in the program's order."""

    def close(self) -> None:
        """Frees what it holds."""


class SpecialiseStep:
    """Runs the program for the shapes and values at hand, which it compiles when it has none.

    Args:
        artifact: which holds the model; open as long as this.
        threads: worker threads of its programs.
        load: gives the program in an artifact, which belongs to it from then on.
    """

    def __init__(
        self,
        step: Step,
        artifact: Artifact,
        registry: Registry,
        threads: int,
        jit: Jit,
        stats: Stats,
        load: Callable[[Artifact], Program],
    ) -> None:
        assert step.model is not None
        self._step = step
        self._model = step.model
        self._artifact = artifact
        self._registry = registry
        self._threads = threads
        self._jit = jit
        self._stats = stats
        self._load = load
        self._specialiser: Any = None
        self._programs: OrderedDict[Any, Program] = OrderedDict()
        self._bound: dict[tuple[str, ...], None] = {}
        """The sets of inputs whose values programs were made for so far."""

    def run(self, arrays: Sequence[Array]) -> list[Any]:
        """The step's outputs.

        Args:
            arrays: the step's inputs, contiguous and of the declared dtypes.

        Raises:
            InputError: the inputs may not be of these shapes, the model cannot be compiled for these values, or what
                compiles it is missing.
        """
        feeds = dict(zip(self._step.inputs, arrays, strict=True))
        shapes = tuple([array.shape for array in arrays])
        for bound in self._bound:
            program = self._programs.get(_key(shapes, bound, feeds))
            if program is not None:
                self._programs.move_to_end(_key(shapes, bound, feeds))
                self._stats.hits += 1
                return program.run([array for name, array in feeds.items() if name not in bound])
        self._check(arrays)
        bound, program = self._compiled(feeds)
        self._stats.specialised += 1
        self._bound[bound] = None
        self._programs[_key(shapes, bound, feeds)] = program
        if len(self._programs) > self._jit.most:
            self._programs.popitem(last=False)[1].close()
            self._stats.evictions += 1
        return program.run([array for name, array in feeds.items() if name not in bound])

    def close(self) -> None:
        """Frees every program."""
        while self._programs:
            self._programs.popitem()[1].close()

    def _check(self, arrays: Sequence[Array]) -> None:
        """Raises InputError when the inputs may not have these shapes."""
        wrong: InputError | None = None
        for infos in self._model.shapes:
            try:
                symbols_of(arrays, infos)
            except InputError as error:
                wrong = error
            else:
                return
        if len(self._model.shapes) > 1:
            raise no_shapes(self._model.shapes, arrays)
        assert wrong is not None
        raise wrong

    def _compiled(self, feeds: Mapping[str, Array]) -> tuple[tuple[str, ...], Program]:
        """The names of the inputs that are bound to their values, and the program for these."""
        try:
            # The compiler is imported here only: where there is none, what is compiled already still runs.
            from tilewright.specialiser import Specialiser

            if self._specialiser is None:
                self._specialiser = Specialiser(self._artifact, self._model, self._registry, self._threads)
            bound, artifact, seconds = self._specialiser.compiled(feeds, cache=self._jit.cache)
        except (ImportError, PluginError) as error:
            raise InputError(
                f"The program has to be compiled for new values of its inputs, and the compiler is missing: {error}",
                "Install tilewright-backends and TVM, or compile the model for fixed values with --bind.",
            ) from error
        self._stats.compile_seconds += seconds or 0.0
        return bound, self._load(artifact)


def _key(shapes: tuple[tuple[int, ...], ...], bound: tuple[str, ...], feeds: Mapping[str, Array]) -> Any:
    """What a program was made for."""
    return shapes, bound, tuple([feeds[name].tobytes() for name in bound])
