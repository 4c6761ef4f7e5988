"""What changes while a model serves: drift of the data, quality of published lists, freshness, and the page that shows them over the year."""
