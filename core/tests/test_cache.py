"""The cache: safe folder, one build per key, damaged entries rebuilt, the longest unused evicted."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from tilewright.artifact import ArtifactError
from tilewright.cache import Cache, CacheError, cache_folder, cache_key
from tilewright.errors import InputError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def key(text: str) -> str:
    return cache_key({"name": text})


def read(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"ok"):
        raise ArtifactError(f"{path} is damaged.")
    return data


def forbidden(path: Path) -> None:
    pytest.fail("an entry that is there was built again")


def test_the_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert not cache_folder().exists()
    Cache()
    assert cache_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_reach_into_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(CacheError, match="chmod 700"):
        Cache(tmp_path)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CacheError, match="belongs to user"):
        Cache(tmp_path)


def test_a_file_in_the_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="TILEWRIGHT_CACHE"):
        Cache(tmp_path / "file")


def test_an_entry_is_built_once(cache: Cache) -> None:
    assert cache.fetch(key("a"), lambda path: path.write_bytes(b"ok 1") and None, read) == b"ok 1"
    assert cache.fetch(key("a"), forbidden, read) == b"ok 1"
    assert cache.fetch(key("b"), lambda path: path.write_bytes(b"ok 2") and None, read) == b"ok 2"
    assert {entry.key for entry in cache.entries()} == {key("a"), key("b")}


def test_a_damaged_entry_is_built_again_and_says_so(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    cache.fetch(key("a"), lambda path: path.write_bytes(b"ok 1") and None, read)
    (cache.folder / key("a")).write_bytes(b"broken")
    with caplog.at_level(logging.WARNING, "tilewright"):
        assert cache.fetch(key("a"), lambda path: path.write_bytes(b"ok 2") and None, read) == b"ok 2"
    assert "built again" in caplog.text
    assert cache.fetch(key("a"), forbidden, read) == b"ok 2"


def test_an_error_that_is_not_the_entrys_leaves_the_entry_alone(cache: Cache) -> None:
    def no_device(path: Path) -> bytes:
        raise InputError("This machine has no GPU.")

    cache.fetch(key("a"), lambda path: path.write_bytes(b"ok 1") and None, read)
    with pytest.raises(InputError, match="no GPU"):
        cache.fetch(key("a"), forbidden, no_device)
    assert cache.fetch(key("a"), forbidden, read) == b"ok 1"


def test_a_failed_or_interrupted_build_leaves_nothing(cache: Cache) -> None:
    def build(path: Path) -> None:
        path.write_bytes(b"ok half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch(key("a"), build, read)
    assert [p.name for p in cache.folder.iterdir()] == ["lock"]


def test_the_longest_unused_entries_are_evicted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=250)
    for number, name in enumerate("abc"):
        if name == "c":
            cache.fetch(key("a"), forbidden, read)  # a is used again, so b is the longest unused
        cache.fetch(key(name), lambda path: path.write_bytes(b"ok" + bytes(98)) and None, read)
        for entry in cache.entries():
            os.utime(entry.path, (entry.used - 100 + number, entry.used - 100 + number))
    assert {entry.key for entry in cache.entries()} == {key("a"), key("c")}


def test_an_entry_larger_than_the_limit_is_kept_while_it_is_the_newest(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=10)
    assert cache.fetch(key("a"), lambda path: path.write_bytes(b"ok" + bytes(98)) and None, read)
    assert [entry.key for entry in cache.entries()] == [key("a")]


def test_clear_removes_entries_and_leftovers(cache: Cache) -> None:
    cache.fetch(key("a"), lambda path: path.write_bytes(b"ok 1") and None, read)
    (cache.folder / ".x.partial").write_bytes(b"left")
    assert cache.clear() == 4
    assert [p.name for p in cache.folder.iterdir()] == ["lock"]


def test_the_limit_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_LIMIT", "3")
    assert Cache(tmp_path / "cache").limit == 3 << 20
    monkeypatch.setenv("TILEWRIGHT_CACHE_LIMIT", "lots")
    with pytest.raises(CacheError, match="MiB"):
        Cache(tmp_path / "cache")


def test_the_key_depends_on_every_part_and_not_on_their_order() -> None:
    parts = {"ir": "x", "target": "cpu:a", "options": {"topk": 3, "b": [1, 2]}, "versions": {"core": "1"}}
    assert cache_key(parts) == cache_key(dict(reversed(parts.items())))
    for name in parts:
        assert cache_key({**parts, name: "changed"}) != cache_key(parts)


def _fetch_slowly(folder: Path, log: Path) -> None:
    def build(path: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        threading.Event().wait(0.2)
        path.write_bytes(b"ok")

    Cache(folder).fetch(key("shared"), build, read)


def test_processes_and_threads_that_want_one_key_build_it_once(tmp_path: Path) -> None:
    for make in (multiprocessing.get_context("fork").Process, threading.Thread):
        folder, log = tmp_path / make.__name__, tmp_path / f"{make.__name__}.log"
        workers = [make(target=_fetch_slowly, args=(folder, log)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert log.read_text() == "built\n"


def test_a_build_may_fetch_other_keys(cache: Cache) -> None:
    def outer(path: Path) -> None:
        for number in range(200):
            inner = cache.fetch(key(f"inner {number}"), lambda p: p.write_bytes(b"ok") and None, read)
        path.write_bytes(inner)

    assert cache.fetch(key("outer"), outer, read) == b"ok"
