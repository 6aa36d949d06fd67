"""Small wrong changes to the sources, and whether a test sees them: `python -m tools.mutate`."""
