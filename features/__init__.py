"""What is known about users, items and dates before a cut-off. Polars only; nothing here knows a network or a forecast library."""
