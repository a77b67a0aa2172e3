"""Twins of the library in plain NumPy and Python loops, written from the facts sheet (the spec)."""
