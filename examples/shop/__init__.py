"""A small shop API with its data in SQLite, and the same with a batch endpoint."""
