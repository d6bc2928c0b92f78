"""Figures of a GPU, and the tests that need one: `python -m benchmarks.gpu`.  See runner.py."""
