"""Where events come from: readers, column mapping, ready data sets, the synthetic generator and the incremental ingest."""
