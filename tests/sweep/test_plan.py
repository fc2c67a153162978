"""Names and keys of the files of a sweep, and what is left of an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_reports import report

from lieq_edge.errors import InputError
from lieq_edge.sweep.plan import Planned, find_finished, key_of_entry, name_files
from lieq_edge.sweep.request import Entry, make_sweep
from lieq_edge.sweep.table import Record, SweepRow, record_path, sha256_of, write_record


def entries(**values: object) -> list[Entry]:
    return make_sweep({"models": ["org/model"], "budgets": ["Q2_K"], **values}).entries()


def test_names_say_model_budget_metric_and_effort() -> None:
    assert name_files(entries(metrics=["loss", "first"], efforts=["quick"])) == [
        "model-Q2_K-loss-quick.gguf",
        "model-Q2_K-first-quick.gguf",
    ]
    assert name_files(entries(models=["a/model", "b/model", "c"])) == [
        "a-model-Q2_K-normal.gguf",
        "b-model-Q2_K-normal.gguf",
        "c-Q2_K-normal.gguf",
    ]
    with pytest.raises(InputError, match="would both be written to"):
        name_files(entries(budgets=["Q2_K", "q2_k"]))


def test_a_key_depends_on_model_settings_and_texts_but_not_on_places(tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("one")

    def key(name: str = "m.gguf", content: str = "content", **values: object) -> str:
        return key_of_entry(entries(calibration=str(text), **values)[0], name, content)

    keys = {key(), key(cache_dir=str(tmp_path / "c"), cache_limit="1GB")}
    assert len(keys) == 1
    keys |= {key(name="other.gguf"), key(content="other"), key(seed=1)}
    text.write_text("two")
    keys.add(key())
    assert len(keys) == 5


def planned(folder: Path, *, key: str = "k", budgets: tuple[str, ...] = ("Q2_K",)) -> list[Planned]:
    wanted = entries(budgets=list(budgets))
    return [
        Planned(
            entry,
            folder / name,
            SweepRow(entry.model, entry.budget, None, "normal", f"{key}{entry.budget}", name),
            folder / "model.html",
        )
        for entry, name in zip(wanted, name_files(wanted), strict=True)
    ]


def finish(plan: Planned) -> None:
    plan.out.write_bytes(b"weights")
    row = SweepRow(**{**vars(plan.row), "bytes": 7, "sha256": sha256_of(plan.out)})
    write_record(plan.out, Record(row, report()))


def test_finished_files_are_found_and_others_are_begun_anew(tmp_path: Path) -> None:
    plans = planned(tmp_path, budgets=("Q2_K", "Q3_K_S", "Q4_K_M"))
    assert find_finished(plans, force=False) == {}
    finish(plans[0])
    finish(plans[1])
    plans[1].out.write_bytes(b"changed")
    plans[2].out.write_bytes(b"its record was not written before the program was killed")
    assert list(find_finished(plans, force=False)) == ["kQ2_K"]
    assert [record_path(plan.out).exists() for plan in plans] == [True, False, False]


def test_a_file_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    plans = planned(tmp_path)
    plans[0].out.write_bytes(b"mine")
    with pytest.raises(InputError, match="not of this sweep; pass --force"):
        find_finished(plans, force=False)
    assert plans[0].out.read_bytes() == b"mine"
    assert find_finished(plans, force=True) == {}


def test_files_of_other_settings_are_not_replaced_unless_forced(tmp_path: Path) -> None:
    plans = planned(tmp_path)
    find_finished(plans, force=False)
    finish(plans[0])
    others = planned(tmp_path, key="other")
    with pytest.raises(InputError, match="with other settings"):
        find_finished(others, force=False)
    assert list(find_finished(plans, force=True)) == ["kQ2_K"]
    assert find_finished(others, force=True) == {}
    # From now on it is being made, and a killed sweep goes on without a flag.
    assert find_finished(others, force=False) == {}


def test_what_is_not_a_record_is_refused(tmp_path: Path) -> None:
    plans = planned(tmp_path)
    record_path(plans[0].out).write_text("{}")
    with pytest.raises(InputError, match="holds no record of a finished file"):
        find_finished(plans, force=False)
    assert find_finished(plans, force=True) == {}
