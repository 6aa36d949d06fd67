"""A2D-Sentences: what is read, and what is wrong with its files."""
