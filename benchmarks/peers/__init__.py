"""The package side by side with others that answer batches, and with what clients do without one."""
