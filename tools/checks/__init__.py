"""What `python -m tools.check_data` finds out about a split, and the report about it."""
