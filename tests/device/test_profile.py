"""Profiles: those that are installed, and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lieq_edge.device.profile import list_profiles, load_profile, profile_names
from lieq_edge.errors import InputError

DOCUMENT: dict[str, Any] = {
    "name": "mine",
    "description": "A board.",
    "memory": "2GiB",
    "system": 600_000_000,
    "threads": 4,
    "instructions": "neon",
    "types": {"Q4_K": {"prefill": 0.1, "decode": 0.2, "source": "measured", "estimated": False}},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "profile.json"
    path.write_text(json.dumps({**DOCUMENT, **changes}))
    return path


def test_every_installed_profile_says_where_its_numbers_are_from() -> None:
    names = {"pi4-4gb", "pi5-4gb", "pi5-8gb", "m2-max", "snapdragon-8gen2", "x86-avx512"}
    assert names <= set(profile_names())
    for profile in list_profiles():
        assert profile.name in profile_names()
        assert 0 < profile.spare < profile.memory
        assert profile.conditions
        for cost in profile.types.values():
            assert cost.source


def test_only_the_measured_machine_is_not_an_estimate() -> None:
    measured = {p.name for p in list_profiles() if not any(cost.estimated for cost in p.types.values())}
    assert measured == {"x86-avx512"}


def test_boards_differ_in_memory_only() -> None:
    four, eight = load_profile("pi5-4gb"), load_profile("pi5-8gb")
    assert eight.memory == 2 * four.memory
    assert (eight.types, eight.instructions) == (four.types, four.instructions)


def test_a_file_is_read(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path))
    assert (profile.memory, profile.spare) == (1 << 31, (1 << 31) - 600_000_000)
    assert profile.types["Q4_K"].decode == 0.2


def test_a_file_may_be_based_on_an_installed_one(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text("based_on: pi5-4gb\nname: board\nmemory: 16GiB\n")
    profile = load_profile(path)
    assert (profile.name, profile.memory) == ("board", 16 << 30)
    assert profile.types == load_profile("pi5-4gb").types


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"types": {}}, "types"),
        ({"types": {"Q9_K": DOCUMENT["types"]["Q4_K"]}}, "no type 'Q9_K'"),
        ({"types": {"Q4_K": {**DOCUMENT["types"]["Q4_K"], "decode": 0}}}, "types.Q4_K.decode"),
        ({"memory": "much"}, "memory"),
        ({"colour": "red"}, "colour"),
        ({"instructions": "mmx"}, "instructions"),
        ({"based_on": "pi9"}, "based on 'pi9'"),
    ],
)
def test_a_damaged_file_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_profile(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "1: 2", "!!python/object/apply:os.system [true]"])
def test_what_is_no_profile_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="profile"):
        load_profile(path)


def test_an_unknown_device_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'pi6-4gb' is unknown. Did you mean .*pi5-4gb.*Known are .*m2-max"):
        load_profile("pi6-4gb")
    with pytest.raises(InputError, match="Did you mean m2-max"):
        load_profile("m2")
    with pytest.raises(InputError, match=r"none\.json"):
        load_profile(tmp_path / "none.json")
