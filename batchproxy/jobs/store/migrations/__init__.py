"""The migrations of the schema, one file each in `versions/`; `schema.py` runs them."""
