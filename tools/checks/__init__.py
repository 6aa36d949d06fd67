"""What `python -m tools.check_data` finds out: walking folders, opening files, and the report about both."""
