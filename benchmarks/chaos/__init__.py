"""Durable jobs under faults: real processes are killed, frozen and cut off, and a ledger judges what became of items.

`python -m benchmarks.chaos --help`; a short form of the same rounds is in `tests/jobs/chaos/`.
"""
