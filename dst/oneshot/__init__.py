"""Pruning trained models without training."""
