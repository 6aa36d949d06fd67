"""Recomputes the numbers that were recorded from the published SOC (tests/parity) with this project's modules."""
