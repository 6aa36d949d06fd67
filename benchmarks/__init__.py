"""Measurements of speed; run as `python -m benchmarks.bench_<what>` from the root of the repository."""
