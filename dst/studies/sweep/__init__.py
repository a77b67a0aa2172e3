"""Many runs of one config: ``dst sweep FILE``.

``file`` reads W&B's sweep format, ``space`` knows its distributions, ``book`` keeps what there is
to do and what came out. Two engines do it: ``processes``; and ``vectorised``, for which ``merge``
makes one program of several and ``lanes`` lets runs share it. ``trial`` is what both know of a run,
``screen`` shows them, ``sweep`` puts all together.
"""

from dst.studies.sweep.driver import RESULTS, run
from dst.studies.sweep.spec import Sweep, SweepError, load

__all__ = ["RESULTS", "Sweep", "SweepError", "load", "run"]
