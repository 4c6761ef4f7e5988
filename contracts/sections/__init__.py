"""One file a section of `PipelineConfig`; a step receives its own section only."""
