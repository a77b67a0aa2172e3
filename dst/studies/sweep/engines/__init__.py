"""How the trials of a sweep run: as processes, or together under vmap."""
