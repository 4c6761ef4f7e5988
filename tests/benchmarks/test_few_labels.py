"""Few labels: what differs between the arms, and that seeds are averaged per user before arms are paired."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from benchmarks import few_labels
from benchmarks.few_labels import WITHOUT, compared, config_of


def test_arms_see_the_same_labels_and_differ_in_what_taste_has_learned_without_any(tmp_path: Path) -> None:
    arms = {arm.removeprefix("perennial:"): few_labels.config_of("complete_journey", str(tmp_path), arm, 0.1) for arm in few_labels.ARMS}
    assert [one.pretraining.enabled for one in arms.values()] == [False, True, False, True]
    assert [len(one.fine_tuning.linear) for one in arms.values()] == [2, 0, 2, 2]
    assert [one.fine_tuning.leave_out for one in arms.values()] == [("taste",), (), (), ()]
    assert {one.fine_tuning.label_share for one in arms.values()} == {0.1}
    first, *others = arms.values()
    assert all(one.evaluation == first.evaluation for one in others)
    assert len(first.evaluation.origins) == 1


def test_seeds_are_averaged_per_user_before_arms_are_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three users. Of two draws one arm has .2 and .4, .6 and .6, 0 and .2; the other .1 and .3, .5 and .5, 0 and 0."""
    config = config_of("online_retail_ii", str(tmp_path), WITHOUT, 0.1)
    origin = date(2011, 8, 8)
    wanted = pl.DataFrame({"user_id": ["c", "a", "b"], "item_id": ["i"] * 3})
    monkeypatch.setattr(few_labels, "wanted_of", lambda config: iter([(("again", origin, 0), wanted)]))
    key = f"again {origin} 0"
    cells = {"perennial:linear terms": ["2000 6000 0", "4000 6000 2000"], WITHOUT: ["1000 5000 0", "3000 5000 0"]}
    rows = compared(config, 0.1, {arm: [{"users": {key: text}} for text in texts] for arm, texts in cells.items()})
    found = {(row["model"], row["metric"]): row for row in rows if row["lead_days"] == 0}
    assert found["perennial:linear terms", "ndcg@10"]["value"] == pytest.approx((0.3 + 0.6 + 0.1) / 3, abs=1e-6)
    assert found[WITHOUT, "ndcg@10"]["value"] == pytest.approx((0.2 + 0.5) / 3, abs=1e-6)
    gain = found["perennial:linear terms", "gain of ndcg@10"]
    assert (gain["other"], gain["label_share"], gain["seeds"]) == (WITHOUT, 0.1, 2)
    assert gain["relative"] == pytest.approx(1.0 / 0.7 - 1, abs=1e-5)
    assert gain["relative_low"] > 0  # every user gains
