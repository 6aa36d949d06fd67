"""Operators that have, or may one day have, a compiled backend."""
