"""What a page says about files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from page_reports import SCORES, bare, preset, report, tensor, tensors

from lieq_edge.page.heat import bytes_by_role, heat_map, loss_by_block
from lieq_edge.page.numbers import number, passages, setting, shown, with_error
from lieq_edge.page.view import make_view


def test_the_picture_has_a_cell_for_each_matrix_of_a_block() -> None:
    heat = heat_map(tensors(3))
    assert heat is not None
    assert heat.roles == ("attn_q", "ffn_up", "ffn_down")  # as a block runs them, not as the file has them
    assert heat.blocks == 3
    assert len(heat.cells) == 9
    rows = heat.rows()
    assert [cell.bits for cell in rows[0] if cell] == [4, 2, 6]
    assert [cell.bits for cell in rows[2] if cell] == [4, 2, 2]
    assert [(kind.type, kind.count) for kind in heat.kinds] == [("Q2_K", 5), ("Q4_K", 3), ("Q6_K", 1)]
    assert rows[0][2] is not None
    assert "blk.0.ffn_down.weight: Q6_K, 6.56 bits a weight" in rows[0][2].title
    assert "5 in Q2_K" in heat.description


def test_blocks_that_lack_a_role_leave_a_gap() -> None:
    heat = heat_map(
        [tensor("blk.0.attn_q.weight", (256, 256), "Q4_K"), tensor("blk.1.ffn_up.weight", (256, 256), "Q2_K")]
    )
    assert heat is not None
    assert [[cell and cell.type for cell in row] for row in heat.rows()] == [["Q4_K", None], [None, "Q2_K"]]


def test_a_type_of_its_own_is_shown_by_its_bits() -> None:
    copied = replace(tensor("blk.0.attn_q.weight", (256, 256), "Q4_K"), type="TQ1_0", nbytes=256 * 54)
    heat = heat_map([copied])
    assert heat is not None
    assert (heat.cells[0].bits, heat.cells[0].shade) == (1, 2)


def test_without_tensors_there_is_no_picture() -> None:
    assert heat_map(()) is None
    assert bytes_by_role(()) == ()
    assert loss_by_block(()) == ()


def test_bytes_by_role_are_all_bytes() -> None:
    roles = bytes_by_role(tensors())
    assert sum(role.nbytes for role in roles) == sum(tensor.nbytes for tensor in tensors())
    assert roles[0].role == "token_embd"
    assert "also the output head" in roles[0].plain
    assert (roles[-1].role, roles[-1].predicted_loss) == ("", None)  # norms
    down = next(role for role in roles if role.role == "ffn_down")
    assert [(part.type, part.count) for part in down.segments] == [("Q6_K", 1), ("Q2_K", 2)]
    assert down.predicted_loss == pytest.approx(0.012)


def test_predicted_losses_are_summed_block_by_block() -> None:
    assert loss_by_block(tensors()) == pytest.approx((0.006, 0.012, 0.018))
    assert loss_by_block(tensors(predicted=False)) == ()


def test_the_nearest_file_in_size_is_the_rival() -> None:
    others = [preset("far", file_bytes=60_000_000, kld=0.001), preset("near", file_bytes=99_000_000, kld=0.05)]
    (file,) = make_view([report()], others, (), "").files
    assert file.verdict is not None
    assert file.verdict.text == "near (10.0 % larger) diverges from the original 4 times as much."
    assert file.verdict.better is True


@pytest.mark.parametrize(
    ("file_bytes", "kld", "better"),
    [
        (95_000_000, 0.05, True),  # larger and further away
        (85_000_000, 0.005, False),  # smaller and closer
        (90_000_100, 0.005, False),
        (99_000_000, 0.005, None),  # larger and closer
        (81_000_000, 0.05, None),  # much smaller and further away
        (88_000_000, 0.05, True),  # a little smaller and further away
        (90_000_000, 0.0126, None),
    ],
)
def test_a_better_rival_is_named(file_bytes: int, kld: float, better: bool | None) -> None:
    (file,) = make_view([report()], [preset("R", file_bytes=file_bytes, kld=kld)], (), "").files
    assert file.verdict is not None
    assert file.verdict.better is better
    assert ("It is the better choice" in file.verdict.text) == (better is False)


def test_rows_go_by_size_and_the_best_of_each_size_are_marked() -> None:
    reports = [report(), report(out="small.gguf", file_bytes=70_000_000, validation=replace(SCORES, kld=0.2))]
    page = make_view(reports, [preset("P", file_bytes=80_000_000, kld=0.3)], (), "")
    assert [row.name for row in page.rows] == ["small.gguf", "P", "model-90MB.gguf"]
    assert [row.best for row in page.rows] == [True, False, True]
    assert [file.name for file in page.files] == ["small.gguf", "model-90MB.gguf"]


def test_speeds_of_our_own_file_come_with_the_compared_ones() -> None:
    own = replace(preset("/somewhere/model-90MB.gguf"), prefill=99.0)
    page = make_view([report()], [own, preset()], (), "")
    assert [(row.name, row.prefill) for row in page.rows] == [("model-90MB.gguf", 99.0), ("Q3_K_M", 180.0)]


def test_tiles_say_what_was_measured() -> None:
    (file,) = make_view([report()], (), (), "").files
    tiles = {tile.label: (tile.value, tile.note) for tile in file.tiles}
    assert tiles["Size"][0] == "90.0 MB"
    assert tiles["KL divergence, nats"] == ("0.0125", "median 0.00600, 99.9 % 0.400")
    assert tiles["Perplexity"] == ("12.50", "original 12.00")
    (file,) = make_view([bare()], (), (), "").files
    assert [tile.label for tile in file.tiles] == ["Size", "Bits a weight"]
    (file,) = make_view(
        [report(validation=replace(SCORES, kld=None, kld_p50=None, top1=None, reference_ppl=None))], (), (), ""
    ).files
    assert [tile.label for tile in file.tiles] == ["Size", "Bits a weight", "Perplexity"]


def test_a_single_file_needs_no_table_and_no_frontier() -> None:
    page = make_view([report()], (), (), "")
    assert page.rows == ()
    assert page.frontiers == ()
    assert len(page.bars) == 1


def test_bars_share_a_scale() -> None:
    reports = [
        report(),
        report(out="b", file_bytes=95_000_000, predicted_loss=0.05, validation=replace(SCORES, kld=0.1)),
    ]
    lengths = [(bar.predicted_length, bar.measured_length) for bar in make_view(reports, (), (), "").bars]
    assert lengths == [pytest.approx((11.1, 12.5)), pytest.approx((50.0, 100.0))]


def test_numbers() -> None:
    assert [number(x) for x in (None, float("nan"), 0.0, 0.00123456, 0.5, 12.345, 1234.5, 1e-7)] == [
        "–", "–", "0", "0.00123", "0.500", "12.3", "1234", "1.00e-07",
    ]  # fmt: skip
    assert with_error(0.0125, 0.0004) == "0.0125 ± 0.0004"
    assert [setting(x) for x in (True, [2, 3], "k", 5)] == ["yes", "2, 3", "k", "5"]


def test_text_from_elsewhere_keeps_its_lines_and_loses_what_acts() -> None:
    assert shown("a\n\tb") == "a\n\tb"
    assert shown("a\x00\x1b[31m\u202eb\ud800") == "a  [31m b\ufffd"
    assert shown(3) == 3


def test_code_in_an_answer_is_apart() -> None:
    assert passages("Look:\n```python\nx = 1\n\n  y\n```\nDone.") == [
        ("Look:", False),
        ("x = 1\n\n  y", True),
        ("Done.", False),
    ]
    assert passages("```\nnot closed") == [("not closed", True)]
    assert passages("plain\ntext") == [("plain\ntext", False)]
    assert passages(" \n") == []
