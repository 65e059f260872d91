"""Benchmarks: every figure beside its floor, measured in the same run. `scripts/bench [--only NAME] [--json FILE]`."""
