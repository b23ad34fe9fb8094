"""Configurations from files, mappings and objects, and the errors for wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tilewright.config import Config, ConfigError, load_config
from tilewright.plugins.errors import UnknownNameError

FULL = """
schema  = 1
target  = "cuda:h200"
[slots]
connect = "welder"
propose = "roller"
[passes]
after.connect = ["acme.layout"]
[options.roller]
topk = 10
[verify]
level = "every-stage"
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_nothing_gives_the_defaults() -> None:
    assert load_config() == Config()
    assert load_config().verify.level == "final"


def test_a_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "full.toml", FULL))
    assert config.target == "cuda:h200"
    assert config.slots == {"connect": "welder", "propose": "roller"}
    assert config.passes.at("after.connect") == ("acme.layout",)
    assert config.passes.at("before.connect") == ()
    assert config.options == {"roller": {"topk": 10}}
    assert config.verify.level == "every-stage"


def test_a_mapping_an_object_and_a_target_on_top(tmp_path: Path) -> None:
    config = load_config({"slots": {"connect": "singletons"}}, target="cpu:znver4")
    assert config == Config(slots={"connect": "singletons"}, target="cpu:znver4")
    assert load_config(config) is config


def test_extends_merges_tables_and_replaces_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "full.toml", FULL)
    folder = tmp_path / "studies"
    folder.mkdir()
    child = write(
        folder,
        "study.toml",
        'schema = 1\nextends = "../full.toml"\n[slots]\nconnect = "singletons"\n'
        '[study]\nmodels = ["light:squeezenet"]\n[study.factors]\n'
        'roller = { off = { propose = "divisors" } }\n[study.sweep]\n"options.roller.topk" = [1, 5]\n',
    )
    config = load_config(child)
    assert config.slots == {"connect": "singletons", "propose": "roller"}
    assert config.target == "cuda:h200"
    assert config.study is not None
    assert config.study.factors == {"roller": {"off": {"propose": "divisors"}}}
    assert config.study.sweep == {"options.roller.topk": (1, 5)}


def test_a_circle_of_extends_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", 'schema = 1\nextends = "b.toml"\n')
    write(tmp_path, "b.toml", 'schema = 1\nextends = "a.toml"\n')
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"traget": "cpu"}, ["'traget'", "'target'"]),
        ({"schema": 2}, ["schema", "2"]),
        ({"target": 3}, ["target", "a string"]),
        ({"slots": {"conect": "welder"}}, ["'conect'", "'connect'"]),
        ({"slots": {"connect": 3}}, ["slots", "connect", "a string"]),
        ({"slots": "welder"}, ["slots", "a table"]),
        ({"passes": {"after": {"conect": []}}}, ["'conect'", "'connect'"]),
        ({"passes": {"during": {}}}, ["'during'"]),
        ({"passes": {"after": {"connect": "acme.layout"}}}, ["connect", "a list"]),
        ({"verify": {"level": "evry-stage"}}, ["verify.level", "'every-stage'"]),
        ({"study": {"design": "powerset"}}, ["study.design", "'power-set'"]),
        ({"study": {"rounds": 0}}, ["study", "rounds"]),
        ({"study": {"sweep": {"options.roller.topk": 5}}}, ["sweep", "a list"]),
        ({"plugins": {"disabled": [1]}}, ["plugins.disabled[0]", "a string"]),
    ],
)
def test_a_wrong_key_or_value_is_named(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('target = "cpu"\n', "schema = 1"),
        ("schema = 7\n", "has 7"),
        ("schema = = 1\n", "not valid TOML"),
        ("schema = 1\nextends = 3\n", "path of a configuration"),
        ('schema = 1\nextends = "no.toml"\n', "no.toml"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, "wrong.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert words in str(caught.value)
    assert "wrong.toml" in str(caught.value) or "extends" in text


def test_a_file_that_is_not_there_or_is_binary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "binary.toml")


def test_the_object_checks_slots_too() -> None:
    with pytest.raises(UnknownNameError, match="connect"):
        Config(slots={"conect": "x"})
