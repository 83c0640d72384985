"""Benchmarks: kernels and steps (pytest-benchmark), and the peers' harness, `python -m bench.peers`."""
