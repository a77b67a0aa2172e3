"""Many runs of one config: ``dst sweep FILE``.

``file`` reads W&B's sweep format, ``space`` knows its distributions, ``book`` keeps what there is
to do and what came out, ``processes`` does it, ``sweep`` puts them together.
"""

from dst.sweep.file import Sweep, SweepError, load
from dst.sweep.sweep import RESULTS, run

__all__ = ["RESULTS", "Sweep", "SweepError", "load", "run"]
