"""The answer to a request: a stored bundle, the recommender that reads it, the registered model, the HTTP service and its page."""
