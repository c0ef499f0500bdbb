"""Durable jobs: what goes through the store, what it costs in a process, and who waits for whom."""
