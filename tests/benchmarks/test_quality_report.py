"""Ratios and their summary."""

from __future__ import annotations

from benchmarks.quality_report import Row, every_row, ratios, summary


def row(method: str, size: str, file_bytes: int, kld: float) -> Row:
    made = {"block_bpw": 3.0, "seconds": 1.0, "peak_rss_bytes": 10**8, "predicted": None}
    scores = {"ppl": 20.0, "ppl_se": 0.1, "kld_se": 0.01, "kld_p99": 1.0, "top1": 0.5, "decode_rate": 100.0}
    return Row(method=method, size=size, file_bytes=file_bytes, kld=kld, **made, **scores)


ROWS = [
    row("preset", "Q2_K", 1000, 0.8),
    row("preset", "Q3_K_M", 2000, 0.4),
    row("loss + feedback", "Q2_K", 1000, 0.2),
    row("loss + feedback", "Q3_K_M", 1990, 0.4),
    row("uniform + imatrix", "Q2_K", 900, 1.0),
    row("uniform + feedback", "Q2_K", 900, 0.6),
]


def test_ratios_are_of_files_that_are_no_larger() -> None:
    assert ratios(ROWS, "loss + feedback", "preset") == {"Q2_K": 0.25, "Q3_K_M": 1.0}
    larger = [*ROWS[:2], row("loss + feedback", "Q2_K", 1001, 0.2)]
    assert ratios(larger, "loss + feedback", "preset") == {}


def test_the_summary_has_geometric_means() -> None:
    lines = summary(ROWS).splitlines()
    assert "| loss + feedback | preset | 0.500 | 1.000 | Q2_K 0.25, Q3_K_M 1.00 |" in lines
    assert "| uniform Q2_K, feedback | the same, imatrix | 0.600 | 0.600 |  |" in lines


def test_uniform_files_come_last() -> None:
    methods = [line.split(" | ")[0] for line in every_row(ROWS).splitlines()[2:]]
    assert methods[:2] == ["| loss + feedback", "| preset"]
    assert all(method.startswith("| uniform") for method in methods[-2:])
