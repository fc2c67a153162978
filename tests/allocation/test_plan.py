"""Plans from hand-made measurements: types, bytes, fallbacks, budgets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_diagnostics

from lieq_edge.allocation.plan import Plan, PlanOptions, make_plan
from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.records import Diagnostics
from lieq_edge.gguf.types import TYPES, unportable
from lieq_edge.system.jsonio import load_json, save_json, to_json

GAINS = [0.1, 0.9, 0.5, 0.3]


def _types(plan: Plan) -> dict[str, str]:
    return {tensor.name: tensor.type for tensor in plan.tensors}


def test_the_paper_budget_promotes_the_top_block_whole() -> None:
    plan = make_plan(make_diagnostics(GAINS), "2.1", PlanOptions(levels=(2, 4)))
    assert [block.bits for block in plan.blocks] == [2, 4, 2, 2]
    assert plan.nominal_bits == pytest.approx(2.5)
    types = _types(plan)
    assert types["blk.1.attn_q.weight"] == types["blk.1.ffn_down.weight"] == "Q4_K"
    assert types["blk.0.attn_q.weight"] == "Q2_K"
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert types["token_embd.weight"] == "Q6_K"


def test_physical_bits_count_the_real_types() -> None:
    plan = make_plan(make_diagnostics(GAINS), "2", PlanOptions(levels=(2, 4)))
    assert plan.bpw == pytest.approx(2.625)
    assert plan.compression_ratio == pytest.approx(2 / 16)


def test_rows_that_no_super_block_fits_take_the_smallest_fitting_type_and_are_listed() -> None:
    plan = make_plan(make_diagnostics(GAINS, hidden=288, inner=512), "2.5")
    types = _types(plan)
    assert types["blk.0.attn_q.weight"] == "IQ4_NL"
    assert TYPES[types["blk.0.ffn_down.weight"]].block == 256
    assert types["token_embd.weight"] == "Q8_0"
    assert plan.fallbacks["blk.0.attn_q.weight"].endswith("-> IQ4_NL")
    assert set(plan.fallbacks) == {"token_embd.weight"} | {f"blk.{i}.attn_q.weight" for i in range(4)}
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    assert by_name["blk.0.attn_q.weight"].nbytes == 288 * 288 // 32 * 18


def test_a_portable_plan_has_no_type_that_only_some_programs_read() -> None:
    diagnostics = make_diagnostics(GAINS, hidden=288, inner=512, tied=False)
    usual, portable = (make_plan(diagnostics, "2.5", PlanOptions(portable=flag)) for flag in (False, True))
    assert unportable(_types(usual).values()) == ["IQ4_NL"]
    assert unportable(_types(portable).values()) == []
    assert portable.fallbacks["blk.0.attn_q.weight"].endswith("-> Q4_0")
    assert _types(portable)["token_embd.weight"] == "Q4_0"
    assert portable.file_bytes == usual.file_bytes


def test_strict_types_refuse_the_replacement() -> None:
    with pytest.raises(InputError, match="288"):
        make_plan(make_diagnostics(GAINS, hidden=288), "2.5", PlanOptions(strict_types=True))


def test_an_untied_head_gets_a_type_of_its_own() -> None:
    types = _types(make_plan(make_diagnostics(GAINS, tied=False), "3"))
    assert types["token_embd.weight"] == "Q4_K"
    assert types["output.weight"] == "Q6_K"
    chosen = PlanOptions(token_embedding_type="q8_0", output_type="q5_k")
    types = _types(make_plan(make_diagnostics(GAINS, tied=False), "3", chosen))
    assert (types["token_embd.weight"], types["output.weight"]) == ("Q8_0", "Q5_K")


@pytest.mark.parametrize("budget", ["1MB", "0.2MB", "2.0bpw", "1.5", "4.5"])
def test_a_budget_out_of_reach_tells_the_reachable_range(budget: str) -> None:
    with pytest.raises(InputError, match=r"\d.* to \d"):
        make_plan(make_diagnostics(GAINS), "0.2MB" if budget == "1MB" else budget)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.floats(0, 1), st.booleans())
def test_a_byte_budget_is_never_exceeded(gains: list[float], share: float, tied: bool) -> None:
    diagnostics = make_diagnostics(gains, tied=tied)
    least = make_plan(diagnostics, "2").file_bytes
    most = make_plan(diagnostics, "4").file_bytes
    budget = int(least + share * (most - least))
    plan = make_plan(diagnostics, f"{budget}b")
    assert plan.file_bytes <= budget
    assert plan.data_bytes == sum((t.nbytes + 31) // 32 * 32 for t in plan.tensors)


def test_a_bpw_budget_is_met_from_below() -> None:
    plan = make_plan(make_diagnostics(GAINS), "3.0bpw")
    assert 2.7 < plan.bpw <= 3.0


def test_a_plan_survives_saving(tmp_path: Path) -> None:
    plan = make_plan(make_diagnostics(GAINS), "3")
    save_json(plan, tmp_path / "plan.json")
    assert load_json(Plan, tmp_path / "plan.json") == plan


def test_a_damaged_plan_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"model": 3}')
    with pytest.raises(InputError, match="holds no saved Plan"):
        load_json(Plan, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda saved: saved.update(blocks=[]), "not numbered"),
        (lambda saved: saved["blocks"].pop(), "not those of the blocks"),
        (lambda saved: saved["blocks"][0].update(index=7), "not numbered"),
        (lambda saved: saved.update(tensors=[]), "not those of the blocks"),
        (lambda saved: saved["tensors"][0].update(shape=[]), "shape"),
        (lambda saved: saved["tensors"][0].update(shape=[0, 256]), "shape"),
        (lambda saved: saved["blocks"][0].update(compactness_gain="much"), "compactness_gain"),
        (lambda saved: saved.pop("tensors"), "tensors"),
    ],
)
def test_damaged_measurements_are_told_in_one_sentence(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    saved = to_json(make_diagnostics(GAINS))
    edit(saved)
    path = tmp_path / "d.json"
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match=message) as refused:
        load_json(Diagnostics, path, "saved measurements")
    assert str(refused.value).startswith(f"{path} holds no saved measurements: ")
    assert "Value error" not in str(refused.value)


def test_files_that_are_no_json_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_json(Plan, tmp_path / "none.json")
    path = tmp_path / "d.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_json(Diagnostics, path)


def test_planning_needs_no_torch(tmp_path: Path) -> None:
    save_json(make_diagnostics(GAINS), tmp_path / "d.json")
    program = (
        "import sys; sys.argv = ['lieq-edge', 'plan', sys.argv[1], '--budget', '2.5', '--json']\n"
        "from lieq_edge.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "d.json")], check=True, stdout=subprocess.PIPE)
