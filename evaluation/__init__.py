"""How good a recommender is: targets, metrics, intervals, baselines, gates, the report. Polars and numpy; no model, no server."""
