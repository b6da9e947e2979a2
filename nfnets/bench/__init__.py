"""Benchmarks: subjects are timed in turn within one run, then reported."""
