"""Processes, meshes, launch and signals."""
