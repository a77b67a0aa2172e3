"""The command line."""

from dst.cli.app import main

__all__ = ["main"]
