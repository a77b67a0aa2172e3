"""What people look at: HTML reports in one file, of a run and of many.

One run: ``reading`` reads its ``contents``; ``finding`` answers, ``question``, ``tiles``,
``sections``, ``pictures`` and ``neurons`` show them; ``run`` writes the page. Many: ``collect``
reads the runs, ``groups`` averages over seeds, ``comparison`` says what is drawn how. ``contrast``
judges differences and ``answer`` words them; ``figures``, ``overview``, ``curves`` and ``tables``
show them, ``many`` writes the page. ``plots``, ``theme``, ``words`` and ``page`` serve both.
"""

from __future__ import annotations

from dst.core import extras

with extras.required("train"):
    from dst.report.run import write_report

__all__ = ["write_report"]
