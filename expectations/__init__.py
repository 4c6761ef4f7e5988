"""What a table must look like. Great Expectations is imported inside functions only: it takes seconds to load."""
