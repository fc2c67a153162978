"""Every family through measuring, both kinds of rounding, writing and llama.cpp."""

from pathlib import Path
from typing import Any

import pytest
from family_cases import CASES, ONE_EACH
from tiny import cached_model

from lieq_edge import ExportSettings, export_model
from lieq_edge.validate.inspect import inspect_file

SIZES: dict[str, Any] = {"hidden": 256, "intermediate": 256, "heads": (4, 2), "head_dim": 64, "blocks": 2}


@pytest.mark.parametrize(("metric", "rounding"), [("geometry", "imatrix"), ("loss", "feedback")])
@pytest.mark.parametrize("case", ONE_EACH)
def test_a_mixed_file_stays_near_the_model(case: str, metric: Any, rounding: Any, tmp_path: Path) -> None:
    family, options = CASES[case]
    # Phi-3 has no size of heads of its own, and as many rope factors as its heads are wide.
    sizes = {**SIZES, "head_dim": None} if family == "phi3" else SIZES
    if "short_factor" in (options.get("rope_scaling") or {}):
        factors = [1 + i / 10 for i in range(24)]
        scaling = {**options["rope_scaling"], "short_factor": factors, "long_factor": factors}
        options = {**options, "rope_scaling": scaling}
    model = cached_model(family, **{**options, **sizes})
    settings = ExportSettings(
        budget="7",
        levels=(6, 8),
        metric=metric,
        rounding=rounding,
        calibration="docs",
        calibration_tokens=1024,
        probe_tokens=64,
        context=64,
        chunks=2,
        threads=1,
        token_embedding_type="Q8_0",
    )
    report = export_model(str(model), tmp_path / "x.gguf", settings)
    assert report.validation is not None
    assert report.validation.kld is not None
    # A matrix in the wrong place or order gives more than 1.
    assert 0 < report.validation.kld < 0.05
    types = {name for block in inspect_file(tmp_path / "x.gguf").blocks for name in block.types.values()}
    assert types == {"Q6_K", "Q8_0"}
