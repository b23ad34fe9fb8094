"""Modules of the tile IR as models: given as they are, or as text in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import attrs

from tilewright.errors import InputError, VerifyError
from tilewright.ir.module import Module
from tilewright.ir.text import ParseError, parse_module
from tilewright.ir.verify import verify_module

SUFFIX = ".tile"
"""How the names of files that hold a module's text end."""


def is_text(model: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a model is the path of a module's text."""
    return isinstance(model, str | os.PathLike) and Path(model).suffix == SUFFIX


def given_module(
    model: Module | str | os.PathLike[str], shapes: Mapping[str, Any], bind: Mapping[str, Any]
) -> Module:
    """A module, or the one in a file, with names for its inputs and outputs.

    Raises:
        InputError: the file cannot be read, its text or the module breaks a rule of the IR, or `shapes` or `bind` name
            something, for a module says itself what it takes.
    """
    module, what = (model, "The module") if isinstance(model, Module) else (_read(Path(model)), f"The module {model!s}")
    for option, names in (("Shapes", shapes), ("Values", bind)):
        if names:
            raise InputError(
                f"{what} is in the tile IR. {option} are given for its input {min(names)!r}.",
                "Write them into the module.",
            )
    try:
        verify_module(module)
    except VerifyError as error:
        raise InputError(f"{what} breaks a law of the tile IR. {error.message}", "Repair it.") from None
    body = module.main.body
    inputs = module.input_names or tuple(x.name for x in body.params)
    outputs = module.output_names or tuple(f"output{n}" for n in range(len(body.results)))
    return attrs.evolve(module, input_names=inputs, output_names=outputs)


def _read(path: Path) -> Module:
    try:
        return parse_module(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The module {path!s} cannot be read: {error.strerror or error}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise InputError(f"The module {path!s} is not text in UTF-8.", "Write it with `print_module`.") from None
    except ParseError as error:
        raise InputError(f"The module {path!s} is not well-formed. {error.message}", "Repair the line.") from None
