"""What people look at: one self-contained HTML report per run."""

from __future__ import annotations

from dst.report.run import write_report

__all__ = ["write_report"]
