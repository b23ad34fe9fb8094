"""The arms of each design."""

from __future__ import annotations

from typing import Any

import pytest

from tilewright.config import ConfigError, load_config
from tilewright.study.design import Arm, arms

FACTORS = {
    "roller": {"off": {"propose": "divisors"}},
    "welder": {"off": {"connect": "epilogue"}, "none": {"connect": "singletons"}},
}


def made(**study: Any) -> list[Arm]:
    mapping = {
        "target": "cpu",
        "slots": {"propose": "roller", "connect": "welder"},
        "study": {"factors": FACTORS, **study},
    }
    config = load_config(mapping)
    assert config.study is not None
    return arms(mapping, config.study)


def test_the_power_set_has_every_combination() -> None:
    found = made(design="power-set")
    assert len(found) == 2 * 3
    assert len({arm.name for arm in found}) == 6
    assert found[0].levels == {"roller": "on", "welder": "on"}
    assert found[0].mapping == {"target": "cpu", "slots": {"propose": "roller", "connect": "welder"}}
    (arm,) = [a for a in found if a.levels == {"roller": "off", "welder": "none"}]
    assert arm.mapping["slots"] == {"propose": "divisors", "connect": "singletons"}


def test_leave_one_out() -> None:
    assert [a.levels for a in made(design="leave-one-out")] == [
        {"roller": "on", "welder": "on"},
        {"roller": "off", "welder": "on"},
        {"roller": "on", "welder": "off"},
        {"roller": "on", "welder": "none"},
    ]


def test_one_at_a_time() -> None:
    assert [a.levels for a in made(design="one-at-a-time")] == [
        {"roller": "off", "welder": "off"},
        {"roller": "on", "welder": "off"},
        {"roller": "off", "welder": "on"},
    ]


def test_a_sweep_multiplies_the_arms() -> None:
    found = made(design="leave-one-out", sweep={"options.roller.topk": [1, 5], "verify.level": ["off"]})
    assert len(found) == 4 * 2
    assert found[1].mapping["options"] == {"roller": {"topk": 5}}
    assert found[1].mapping["verify"] == {"level": "off"}
    assert found[1].swept == {"options.roller.topk": 5, "verify.level": "off"}
    assert len({arm.name for arm in found}) == 8


def test_no_factors_is_one_arm() -> None:
    assert [arm.name for arm in made(factors={})] == ["all"]


def test_a_change_may_be_any_key() -> None:
    (on, off) = made(factors={"checks": {"off": {"verify.level": "off"}}})
    assert "verify" not in on.mapping
    assert off.mapping["verify"] == {"level": "off"}


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"factors": {"a": {"on": {}}}}, "'on'"),
        ({"factors": {"a": {}}}, "no level"),
        ({"factors": {"a": {"off": {"conect": "x"}}}}, "a=off.*conect"),
        ({"sweep": {"verify.levl": ["off"]}}, "levl.*'level'"),
    ],
)
def test_a_wrong_study_is_an_error(study: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(**study)
