"""A task of the user's own is read with its data beside it, and never runs code unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_task import YAML, write_task

from lieq_edge.errors import InputError
from lieq_edge.tasks.own import read_own_task

METRICS = ("acc", "acc_norm")


def read(path: Path, *, allow_code: bool = False) -> dict[str, object]:
    return read_own_task(path, METRICS, allow_code=allow_code)


def test_the_data_lies_beside_the_file(tmp_path: Path) -> None:
    config = read(write_task(tmp_path / "there"))
    assert config["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "there" / "sayings.jsonl")}}


def test_a_file_may_include_another(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "more.yaml").write_text("include: sayings.yaml\ntask: more\n")
    config = read(tmp_path / "more.yaml")
    assert (config["task"], config["doc_to_text"]) == ("more", "{{start}}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"{{start}}"', "!function helper.text"), "!function helper.text"),
        (("metric: acc_norm", "metric: their_metric"), "metric their_metric"),
        (("metric: acc_norm", "metric: acc_norm\n    hf_evaluate: true"), "metric acc_norm"),
        (("dataset_path: json", "dataset_path: pandas"), "dataset_path pandas"),
        (("dataset_path: json", "dataset_path: ./load.py"), "dataset_path ./load.py"),
        (("task: sayings", "task: sayings\nunsafe_code: true"), "unsafe_code"),
    ],
)
def test_code_is_refused_unless_it_is_allowed(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("raise SystemExit('it ran')")
    path = write_task(tmp_path, YAML.replace(*change))
    with pytest.raises(InputError, match="--allow-task-code") as error:
        read(path)
    assert words in str(error.value)


def test_code_in_an_included_file_is_refused_too(tmp_path: Path) -> None:
    write_task(tmp_path, YAML.replace('"{{start}}"', "!function helper.text"))
    (tmp_path / "more.yaml").write_text("include: [sayings.yaml]\ntask: more\n")
    with pytest.raises(InputError, match="!function"):
        read(tmp_path / "more.yaml")


def test_functions_are_imported_when_they_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def text(item):\n    return item['start'].upper()\n")
    path = write_task(tmp_path, YAML.replace('"{{start}}"', "!function helper.text"))
    function = read(path, allow_code=True)["doc_to_text"]
    assert callable(function)
    assert function({"start": "a"}) == "A"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "names and values"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("dataset_path: json", "neither"),
        ("include: it.yaml\ntask: it", "includes itself"),
    ],
)
def test_other_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read(tmp_path / "it.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml"):
        read(tmp_path / "none.yaml")
