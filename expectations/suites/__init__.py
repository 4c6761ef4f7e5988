"""Suites as code, one file per table."""
