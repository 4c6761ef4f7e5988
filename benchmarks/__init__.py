"""Figures on real data, each written by a command anyone can run."""
