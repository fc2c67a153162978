"""The benchmark of flags: which flags a variant has, and its table."""

from __future__ import annotations

from benchmarks.defaults import PLAIN, VARIANTS, Row, flags_of, render


def test_a_variant_is_a_name_or_any_flags() -> None:
    assert flags_of(PLAIN, 100) == ()
    assert flags_of("--effort quick", 100) == ("--effort", "quick")
    assert flags_of("--calibration-tokens x2", 100) == ("--calibration-tokens", "200")
    other = "--types all --tune-steps 3"
    assert other not in VARIANTS
    assert flags_of(other, 100) == ("--types", "all", "--tune-steps", "3")


def test_the_last_column_is_the_mean_over_the_plain_command() -> None:
    rows = [
        Row(variant, size, "wiki", 1_000_000, 20.0, kld, 0.001, 60.0)
        for variant, klds in ((PLAIN, (0.4, 0.2)), ("--tune-steps 3", (0.2, 0.1)))
        for size, kld in zip(("Q2_K", "Q3_K_M"), klds, strict=True)
    ]
    lines = render(rows).splitlines()
    assert "Q2_K, wiki" in lines[0]
    assert lines[-1].split("|")[-2].strip() == "0.500"
