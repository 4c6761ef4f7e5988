"""The smallest pipeline that goes the whole path, for tests that need the path and not its figures."""

from typing import Any

MICRO: dict[str, Any] = {
    "name": "micro",
    "source": {"dataset": "synthetic", "synthetic": {"num_events": 4_000, "num_users": 60, "num_items": 40, "days": 460}},
    "features": {"country": "GB", "max_history": 32, "habit_half_lives_days": [90], "first_cutoff_after_days": 300},
    "forecast": {"enabled": False},
    "pretraining": {"enabled": False, "encoder": {"max_history": 32}},
    "fine_tuning": {
        "leads_days": [0],
        "linear": [{"ridge": 100.0}],
        "epochs": 1,
        "max_steps": 10,
        "num_candidates": 40,
        "num_drawn": 0,
        "season_width": 4,
        "habit_width": 4,
    },
    "evaluation": {
        "num_origins": 1,
        "leads_days": [0],
        "baselines": ["popular_28d", "habit_90d"],
        "num_resamples": 100,
        "season_lift": False,
        "slices": False,
    },
    "registry": {"gates": {"min_relative_gain": -1, "min_slice_gain": -1, "min_coverage": 0, "max_latency_ms": 10_000}},
    "publish": {"days_ahead": [0]},
    "compute": {"threads": 1},
}
