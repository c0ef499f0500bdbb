"""The store alone: transactions, leases, ends, retention, on both databases."""
