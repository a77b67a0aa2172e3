"""How a sweep is going: a live table on a terminal, a line for every trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dst.studies.sweep.spec import Sweep
from dst.studies.sweep.storage import Entry

_ENDED = ("done", "pruned", "failed")
_EVERY = 1.0  # seconds between looks at the storage


class Progress:
    """Shows a sweep while it runs. Use as a context manager.

    Args:
      sweep: that is run.
      entries: returns all trials as they are now.
    """

    def __init__(self, sweep: Sweep, entries: Callable[[], Sequence[Entry]]):
        self._sweep, self._entries = sweep, entries
        # A given file: while a batched trial trains, sys.stdout is its log.
        console = Console(file=sys.stdout)
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._start, self._looked = time.monotonic(), 0.0

    def __enter__(self) -> Progress:
        entries = self._entries()
        self._ended_before = len(_ended(entries))
        self._reported = {x.number for x in _ended(entries)}
        if self._live is None:
            self.report(f"{self._sweep.name}: {tally(entries)}")
        else:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._looked = 0.0
        self.show()
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Looks at the storage and shows what is new, at most once a second."""
        now = time.monotonic()
        if now - self._looked < _EVERY:
            return
        self._looked, entries = now, self._entries()
        if self._live is not None:
            ended = len(_ended(entries)) - self._ended_before
            self._live.update(status(self._sweep, entries, now - self._start, ended))
            return
        new = [entry for entry in _ended(entries) if entry.number not in self._reported]
        for entry in new:
            self._reported.add(entry.number)
            self.report(line(entry) + (f" | {tally(entries)}" if entry is new[-1] else ""))

    def report(self, text: str) -> None:
        """Prints a line that stays."""
        if self._live is not None:
            self._live.console.print(text, highlight=False)
        else:
            print(text, flush=True)


def status(sweep: Sweep, entries: Sequence[Entry], seconds: float, ended: int) -> Table:
    """The live table: what runs, what came out, the best trial, the time left.

    Args:
      sweep: that is run.
      entries: of all trials.
      seconds: since this worker started.
      ended: trials that have ended since then, whoever trained them.
    """
    left = sum(x.state not in _ENDED for x in entries)
    title = f"{sweep.name}: {tally(entries)}"
    if ended and left:
        title += f", {_duration(seconds / ended * left)} left"
    table = Table("trial", "state", sweep.metric.name, "overrides", title=title)
    winner = best(sweep, entries)
    shown = [x for x in entries if x.state == "running"]
    shown += [x for x in _ended(entries) if x.state == "failed"][-5:]
    for entry in ([winner] if winner else []) + shown:
        value = "" if entry.value is None else f"{entry.value:.5g}"
        state = "best" if entry is winner else entry.state
        table.add_row(
            str(entry.number), state, value, entry.error or " ".join(entry.overrides or ())
        )
    return table


def best(sweep: Sweep, entries: Sequence[Entry]) -> Entry | None:
    """The trial with the best value of the metric; the first of equal ones."""
    done = [x for x in entries if x.value is not None]
    sign = 1 if sweep.metric.goal == "minimize" else -1
    return min(done, key=lambda x: sign * x.value, default=None)  # type: ignore[operator]


def line(entry: Entry) -> str:
    """A trial in one line."""
    value = f" {entry.value:.5g}" if entry.value is not None else ""
    return (
        f"{entry.number:5d} {entry.state}{value} {entry.error or ' '.join(entry.overrides or ())}"
    )


def _ended(entries: Sequence[Entry]) -> list[Entry]:
    return [x for x in entries if x.state in _ENDED]


def tally(entries: Sequence[Entry]) -> str:
    """How many trials there are in each state, as ``48 trials: 3 running, 45 done``."""
    states = Counter(x.state for x in entries)
    order = ("running", "waiting", "stopped", "lost", "done", "pruned", "failed")
    return f"{len(entries)} trials: " + ", ".join(f"{states[x]} {x}" for x in order if states[x])


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
