"""Twins of the library in plain NumPy and Python loops, written from the published rules."""
