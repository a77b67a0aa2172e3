"""Many runs of one config: ``dst sweep FILE``.

``file`` reads W&B's sweep format into a ``spec``, and ``distributions`` are its parameters.
``storage`` keeps the trials and their results, and assigns trials to workers. ``trial`` watches the
run of one, ``progress`` shows all, ``driver`` is :func:`run`. There are two ``engines``:

* ``processes``: every trial is a process.
* ``vmap``: ``groups`` decides which trials can share a program, ``merge`` merges their programs,
  and ``batch`` computes one update of all of them.
"""

from dst.core import extras

with extras.required("sweep"):
    from dst.studies.sweep.driver import RESULTS, run
    from dst.studies.sweep.file import load
    from dst.studies.sweep.spec import Sweep, SweepError

__all__ = ["RESULTS", "Sweep", "SweepError", "load", "run"]
