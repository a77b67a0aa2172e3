"""Arrays, leaf paths, exact selection, text tables, whole files. Knows nothing of training."""
