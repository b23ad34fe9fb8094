"""Turning plain mappings into frozen attrs classes, strictly, with errors that name the key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from tilewright.errors import InputError, did_you_mean

T = TypeVar("T")


class ConfigError(InputError):
    """A configuration, a study or an option is not what it must be."""


def structure(cls: type[T], data: object, where: str) -> T:
    """An instance of the attrs class `cls` made from the mapping `data`; no value is converted to another
    type.

    Args:
        cls: a frozen attrs class of plain values, sequences, mappings and other such classes.
        data: the mapping.
        where: what `data` is, for errors, such as `options.roller`.

    Raises:
        ConfigError: a key is unknown (the near one is suggested) or missing, or a value has the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{_place(where)} must be a table, not {data!r}.")
    try:
        return _CONVERTER.structure(data, cls)
    except (ClassValidationError, IterableValidationError) as error:
        message, remedy = next(_leaves(error, where))
        raise ConfigError(message, remedy) from error


def _leaves(error: BaseException, where: str) -> Iterator[tuple[str, str]]:
    """Message and remedy of each plain error inside cattrs' groups, with the path of keys that leads
    to it.
    """
    if isinstance(error, ClassValidationError):
        with_notes, without = error.group_exceptions()
        for inner, note in with_notes:
            yield from _leaves(inner, f"{where}.{note.name}" if where else note.name)
        for inner in without:
            yield from _leaves(inner, where)
    elif isinstance(error, IterableValidationError):
        for inner in error.exceptions:
            index = _note(inner)
            yield from _leaves(inner, f"{where}[{index}]")
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(map(str, error.extra_fields)):
            known = [a.name for a in attrs.fields(error.cl) if a.init]
            yield f"{_place(where)} has no key {key!r}.", did_you_mean(key, known)
    elif isinstance(error, InputError):
        yield f"{_place(where)} is wrong: {error.message}", error.remedy
    elif isinstance(error, KeyError):
        yield f"{_place(where)} is missing.", "Give it a value."
    elif len(error.args) == 4 and isinstance(error.args[1], attrs.Attribute):  # attrs' own validators
        _, attribute, wanted, value = error.args
        place = f"{where}.{attribute.name}" if where else attribute.name
        choices = wanted if isinstance(wanted, Collection) else ()
        yield f"{place} cannot be {value!r}.", did_you_mean(str(value), map(str, choices)) if choices else ""
    else:
        yield f"{_place(where)} is wrong: {error.args[0] if error.args else error}.", ""


def _note(error: BaseException) -> object:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote | AttributeValidationNote):
            return getattr(note, "index", getattr(note, "name", "?"))
    return "?"


def _place(where: str) -> str:
    return where or "The configuration"


def _exactly(wanted: type[Any], *accepted: type[Any]) -> Callable[[object, Any], Any]:
    def hook(value: object, _: Any) -> Any:
        if isinstance(value, bool) is not (wanted is bool) or not isinstance(value, (wanted, *accepted)):
            raise TypeError(f"it must be {_WORDS[wanted]}, not {value!r}")
        return wanted(value)

    return hook


def _guarded(hook: Callable[..., Any], accepted: type | tuple[type, ...], word: str) -> Callable[[Any, Any], Any]:
    """Refuses a value of another kind early: cattrs would take a string apart into letters, for instance."""

    def structure_hook(value: Any, cls: Any) -> Any:
        if not isinstance(value, accepted):
            raise TypeError(f"it must be {word}, not {value!r}")
        return hook(value, cls)

    return structure_hook


def _scalar_union(cls: Any) -> Callable[[Any, Any], Any]:
    accepted = get_args(cls)

    def structure_hook(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"it must be {' or '.join(_WORDS[a] for a in accepted)}, not {value!r}")
        return value

    return structure_hook


def _is_scalar_union(cls: Any) -> bool:
    return isinstance(cls, UnionType) and all(arg in _WORDS for arg in get_args(cls))


def _generic(*origins: type) -> Callable[[Any], bool]:
    return lambda cls: get_origin(cls) in origins


_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(int, _exactly(int))
    converter.register_structure_hook(float, _exactly(float, int))
    converter.register_structure_hook(str, _exactly(str))
    converter.register_structure_hook(bool, _exactly(bool))

    def sequence(cls: Any) -> Any:
        return _guarded(homogenous_tuple_structure_factory(cls, converter), (list, tuple), "a list")

    def mapping(cls: Any) -> Any:
        return _guarded(mapping_structure_factory(cls, converter, dict), Mapping, "a table")

    def table(cls: Any) -> Any:
        return _guarded(make_dict_structure_fn(cls, converter), Mapping, "a table")

    converter.register_structure_hook_factory(_generic(tuple), sequence)
    converter.register_structure_hook_factory(_generic(Mapping, dict), mapping)
    converter.register_structure_hook_factory(attrs.has, table)
    converter.register_structure_hook_factory(_is_scalar_union, _scalar_union)
    return converter


_CONVERTER = _converter()
