"""Notes of the report of an export."""

from __future__ import annotations

from dataclasses import replace

from lieq_edge.evidence.blocks.records import TextInfo
from lieq_edge.pipeline.report import ExportReport, LayerReport, TensorReport
from lieq_edge.validate.perplexity import Validation

SCORE = Validation(20.0, 1.0, 100, 1000, 512, 1, TextInfo("t", "0", 512), 18.0, 0.30, 0.01, 1.0, 0.8)


def report(types: dict[str, str], predicted: float | None, validation: Validation | None = SCORE) -> ExportReport:
    layer = LayerReport(0, 1.0, 3.0, None, None, None, types)
    return ExportReport(
        model="m",
        out="o.gguf",
        architecture="llama",
        file_bytes=1000,
        nominal_bits=3.0,
        bpw=3.4,
        file_bpw=3.6,
        metric="loss",
        method="Method: of a test.",
        budget="1kB",
        rounding="feedback",
        embedding_types={},
        layers=(layer,),
        fallbacks={},
        calibration=None,
        probe=None,
        warnings=(),
        seconds={},
        peak_rss_bytes=1,
        validation=validation,
        predicted_loss=predicted,
    )


def test_prediction_and_measurement_stand_side_by_side() -> None:
    (note,) = report({"ffn_up": "Q3_K"}, 0.25).notes()
    assert "0.2500" in note
    assert "0.3000" in note
    assert "add up" not in note


def test_where_errors_do_not_add_up_the_report_says_so() -> None:
    (note,) = report({"ffn_up": "Q2_K"}, 0.1).notes()
    assert "add up beyond the prediction" in note


def test_i_quants_are_said_to_be_slow_on_arm() -> None:
    (note,) = report({"ffn_up": "IQ3_S", "attn_q": "IQ4_NL"}, None).notes()
    assert note.startswith("IQ3_S are")
    assert "ARM" in note


def test_types_that_some_programs_refuse_are_told() -> None:
    tensor = TensorReport("blk.0.attn_q.weight", "attn_q", 0, (64, 96), "IQ4_NL", 3456)
    (note,) = replace(report({"attn_q": "IQ4_NL"}, None), tensors=(tensor,)).notes()
    assert "mistral.rs" in note
    assert "--types portable" in note


def test_without_predictions_or_scores_there_is_nothing_to_say() -> None:
    assert report({"ffn_up": "Q4_K"}, None).notes() == []
    assert report({"ffn_up": "Q4_K"}, 0.1, replace(SCORE, kld=None)).notes() == []
