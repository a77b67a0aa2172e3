"""The training program: one run, from a config to a report.

In the order in which data flows: ``config``, ``data``, ``state``, ``step``, ``evaluation``,
``checkpoint``, ``loop``. Beside them ``recipes`` (what the literature would set), ``schema`` (plain
data to dataclasses), ``optim`` (the wrapped optimizer), ``task`` (what networks are judged by) and
``logs`` (what is told to whom).
"""
