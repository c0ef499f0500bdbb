"""Runs a batch. Knows no wire format and opens no socket."""
