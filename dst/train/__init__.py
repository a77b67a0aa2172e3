"""The training program: one run, from a config to a report.

In the order in which data flows: ``config``, ``data``, ``state``, ``step``, ``checkpoint``,
``loop``. Beside them ``schema`` (plain data to dataclasses), ``optim`` (the wrapped optimizer)
and ``logs`` (what is told to whom).
"""
