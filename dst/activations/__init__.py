"""Sparse activations, and caches of keys and values that stay within a budget."""
