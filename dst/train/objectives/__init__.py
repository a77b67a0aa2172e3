"""What is asked of a network, and the figures that say how well it answers."""
