"""One command per promise that needs running processes: `python -m tests.evidence.NAME`, bounded in count and time.

Each starts what it needs on loopback (simulated model servers or the bench's cheap ones, and a gateway), stops only
what it started, prints the machine in words, the figures, and PASS or FAIL for each bar; the exit code is 0 or 1.
`--short` is a form of a few seconds in which only what is counted is judged, not times: `test_short` runs those.
"""
