"""What people look at: self-contained HTML reports, of a run and of many.

One run: ``reading`` its files, ``pictures`` of its masks, ``run`` puts them together. Many:
``collect`` finds them, ``groups`` averages over seeds, ``figures``, ``curves`` and ``tables`` show
them, ``many`` puts them together. ``plots`` and ``words`` serve both.
"""

from __future__ import annotations

from dst.report.run import write_report

__all__ = ["write_report"]
