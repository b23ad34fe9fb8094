"""A program for another CPU is refused where it would end with an illegal instruction."""

from __future__ import annotations

import pytest

from tilewright.errors import InputError
from tilewright_backends import cpu_features
from tilewright_backends.build import llvm


def test_this_machine_has_what_its_own_target_needs() -> None:
    from tilewright_backends.cpus import resolve

    cpu_features.require(cpu_features.needed(llvm.cpu_features(resolve(""))), "cpu")


def test_missing_instructions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = cpu_features.needed(llvm.cpu_features("x86-64-v4"))
    assert {"avx2", "avx512f"} <= set(needed)
    flags = frozenset({"sse2", "ssse3", "sse4_1", "sse4_2", "popcnt", "avx"})
    monkeypatch.setattr(cpu_features, "_flags", lambda: flags)
    with pytest.raises(InputError, match=r"for cpu:x86-64-v4: it lacks .*avx2, avx512bw"):
        cpu_features.require(needed, "cpu:x86-64-v4")
    cpu_features.require(cpu_features.needed(llvm.cpu_features("x86-64-v2")), "cpu:x86-64-v2")


def test_a_compiler_that_is_no_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with pytest.raises(InputError, match="CC names '/nonexistent/cc'"):
        llvm.c_compiler()
