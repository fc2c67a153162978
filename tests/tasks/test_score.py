"""Files and their original on the same items of a small task, through the harness."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from own_task import ITEMS, YAML, write_task
from runner import assert_refused, run

import lieq_edge
from lieq_edge.system.progress import Event

MakeGguf = Callable[..., Path]

pytest.importorskip("lm_eval")


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data of the hub, and what the package datasets stores goes into a folder of the tests."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def files(preset_files: list[Path]) -> list[Path]:
    return preset_files


def test_the_original_answers_the_same_items(files: list[Path], tmp_path: Path, tiny_gguf: MakeGguf) -> None:
    task = str(write_task(tmp_path))
    events: list[Event] = []
    directory = tiny.cached_model("llama")
    q8, q4 = lieq_edge.score_tasks(files, directory, tasks=[task], threads=1, progress=events.append)
    assert [row.name for row in (q8, q4)] == ["q8.gguf", "q4.gguf"]
    assert [(row.task, row.metric, row.items) for row in q8.scores] == [
        ("sayings", "acc", len(ITEMS)),
        ("sayings", "acc_norm", len(ITEMS)),
    ]
    (alone,) = lieq_edge.score_tasks([tiny_gguf("llama")], tasks=[task], threads=1, cache=False)
    for row in (q8, q4):
        for score, original in zip(row.scores, alone.scores, strict=True):
            # The directory is written with 16 bits, and its GGUF file has 32: no item is that close.
            assert score.reference == original.value
            assert score.difference == pytest.approx(score.value - original.value)
            assert score.better is not None
            assert score.worse is not None
            assert (score.better - score.worse) / len(ITEMS) == pytest.approx(score.difference)
    assert alone.reference is None
    assert alone.scores[0].difference is None
    assert {(event.step, event.steps) for event in events if event.stage} == {(1, 3), (2, 3), (3, 3)}
    assert any(event.done == event.total == 3 * len(ITEMS) for event in events)


def test_a_limit_takes_the_first_items(files: list[Path], tmp_path: Path) -> None:
    (row,) = lieq_edge.score_tasks(files[:1], tasks=[str(write_task(tmp_path))], limit=2, threads=1)
    assert [score.items for score in row.scores] == [2, 2]


def test_a_loglikelihood_a_text_and_a_written_answer(files: list[Path], tmp_path: Path) -> None:
    start = YAML.split("output_type")[0]
    write_task(
        tmp_path,
        start.replace("sayings\n", "last\n", 1)
        + "output_type: loglikelihood\ndoc_to_text: '{{start}}'\ndoc_to_target: '{{ends[answer]}}'\n",
        "last",
    )
    write_task(
        tmp_path,
        start.replace("sayings\n", "whole\n", 1)
        + "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{start}}'\n",
        "whole",
    )
    write_task(
        tmp_path,
        start.replace("sayings\n", "written\n", 1)
        + "output_type: generate_until\ndoc_to_text: '{{start}}'\ndoc_to_target: '{{ends[answer]}}'\n"
        "generation_kwargs: {max_gen_toks: 4, until: ['.']}\nmetric_list: [{metric: exact_match}]\n",
        "written",
    )
    names = [str(tmp_path / f"{name}.yaml") for name in ("last", "whole", "written")]
    (row,) = lieq_edge.score_tasks(files[1:], files[0], tasks=names, threads=1)
    found = {(score.task, score.metric): score for score in row.scores}
    assert {("last", "acc"), ("last", "perplexity"), ("whole", "word_perplexity"), ("written", "exact_match")} <= set(
        found
    )
    perplexity = found["whole", "word_perplexity"]
    assert perplexity.value > 1
    assert perplexity.difference_error is not None
    assert perplexity.error is not None
    assert perplexity.difference_error < perplexity.error
    assert found["last", "perplexity"].better is not None


def test_a_group_has_a_row_over_all_items(files: list[Path], tmp_path: Path) -> None:
    write_task(tmp_path)
    body = "".join(f"    {line}\n" for line in YAML.splitlines()[1:])
    (tmp_path / "both.yaml").write_text(f"group: both\ntask:\n  - task: one\n{body}  - task: two\n{body}")
    (row,) = lieq_edge.score_tasks(files[:1], files[1], tasks=[str(tmp_path / "both.yaml")], threads=1)
    found = {(score.task, score.metric): score for score in row.scores}
    assert {task for task, _ in found} == {"one", "two", "both"}
    assert found["both", "acc"].items == 2 * len(ITEMS)
    assert found["both", "acc"].value == pytest.approx(found["one", "acc"].value)


def test_the_command_prints_a_table_or_a_document(files: list[Path], tmp_path: Path) -> None:
    task = write_task(tmp_path)
    done = run("validate", *files, "--reference", files[0], "--tasks", task, "--threads", "1")
    assert done.returncode == 0, done.stderr
    for word in ("sayings", "acc_norm", "q8.gguf", "q4.gguf", "difference", "better", "worse", "+/-"):
        assert word in done.stdout
    assert "Step 1 of 3: Score q8.gguf on sayings" in done.stderr
    document = json.loads(run("validate", files[0], "--tasks", task, "--threads", "1", "--json").stdout)
    assert document["name"] == "q8.gguf"
    assert [score["metric"] for score in document["scores"]] == ["acc", "acc_norm"]


def test_nothing_comes_between_the_lines(files: list[Path], tmp_path: Path) -> None:
    task = write_task(tmp_path)
    done = run("validate", files[0], "--tasks", task, "--threads", "1", "--quiet", "--json")
    assert done.stderr == ""
    json.loads(done.stdout)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("sayings.yaml,hellaswagg", "hellaswag"),
        ("arc_easy", "allenai/ai2_arc"),
        ("humaneval", "programs that a model writes"),
        ("none.yaml", "none.yaml"),
        ("nodata.yaml", "sayings2.jsonl"),
        ("template.yaml", "template"),
        ("code.yaml", "--allow-task-code"),
        ("drawn.yaml", "at random"),
        (" , ", "name one"),
    ],
)
def test_one_sentence_says_what_is_wrong(
    tasks: str, words: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path)
    write_task(tmp_path, YAML.replace("sayings.jsonl", "sayings2.jsonl"), "nodata")
    write_task(tmp_path, YAML.replace("{{start}}", "{{ ''.__class__.__mro__ }}"), "template")
    write_task(tmp_path, YAML.replace('"{{start}}"', "!function helper.text"), "code")
    drawn = YAML.split("output_type")[0] + "output_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
    write_task(tmp_path, drawn + "generation_kwargs: {do_sample: true, temperature: 1.0, until: ['.']}\n", "drawn")
    assert_refused(run("validate", files[0], "--tasks", tasks, "--threads", "1"), words)


def test_without_the_harness_a_sentence_has_the_command(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    done = run("validate", files[0], "--tasks", write_task(tmp_path))
    assert_refused(done, "pip install")


def test_flags_of_the_other_kind_are_refused(files: list[Path], tmp_path: Path) -> None:
    task = write_task(tmp_path)
    assert_refused(run("validate", files[0], "--tasks", task, "--chunks", "2"), "--chunks")
    assert_refused(run("validate", files[0], "--task-limit", "2"), "--task-limit")
