"""Arrays, leaf paths, exact selection. Knows nothing of training."""
