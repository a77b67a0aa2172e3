"""What a run leaves behind: its directory, checkpoints, logs, summary, costs."""
