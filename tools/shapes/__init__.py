"""Referring Shapes: a small generated data set of moving shapes and sentences about them."""
