"""The files of a run: its directory, checkpoints, metrics, summary, costs."""
