"""Rows of the smaller forms."""

from benchmarks.compression import rows_of, with_every_form
from benchmarks.recommender import parameters_of


def test_what_a_form_loses_is_a_share_of_the_full_model() -> None:
    config = with_every_form(parameters_of("complete_journey", "unused", quick=True))
    metrics = {"encoder_used": 1.0}
    for form, size, ndcg in (("full", 160.0, 0.4), ("int8", 80.0, 0.39)):
        metrics |= {f"form.{form}.size_mb": size, f"form.{form}.latency_ms": 5.0, f"form.{form}.again.ndcg_at_10": ndcg}

    rows = {(row["model"], row["metric"]): row for row in rows_of(metrics, config)}

    assert config.registry.gates.distil
    assert config.fine_tuning.use_encoder == "always"
    assert rows["perennial:int8", "loss of ndcg@10"]["value"] == 0.025
    assert rows["perennial:int8", "ndcg@10"]["value"] == 0.39
    assert rows["perennial:int8", "size MB"]["value"] == 80
    assert ("perennial:full", "loss of ndcg@10") not in rows
    assert len(rows) == 7
