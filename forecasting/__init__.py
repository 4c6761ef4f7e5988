"""What demand will be: candidate models, rolling back-test, choice, intervals, reconciliation, measures. Networks live in lightning_modules."""
