"""Benchmarks: what the gateway costs beside other proxies, in the same run, on the same machine.

`python -m tests.bench` prints the table (`make bench` also writes docs/bench.md). Beside it stand three single
questions: `tests.bench.many_streams`, `tests.bench.big_prompts` and `tests.bench.decision_cost`. All of them print the
machine, the figures, each bar with PASS or FAIL, and exit with 0 or 1. They are no tests: pytest collects nothing here.
"""
