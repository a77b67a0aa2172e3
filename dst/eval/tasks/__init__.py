"""Tasks: whether a model is right, item by item, alone and beside the dense model.

A file marks a task that is made from a seed with ``@named("name", judges="decoder")``. Files of a
user hold tasks as JSON lines. :func:`judge` gives a model's figure on a task, and its difference
to the dense model with an interval::

    task = dst.eval.tasks.find("recall", items=200, seed=0)
    dst.eval.tasks.judge(task, model, dst.models.tokenizer("SmolLM2-135M"), against=dense)
"""

from __future__ import annotations

from dst.eval.tasks.choices import Choice as Choice
from dst.eval.tasks.choices import MultipleChoice as MultipleChoice
from dst.eval.tasks.continuations import Continuation as Continuation
from dst.eval.tasks.continuations import Continuations as Continuations
from dst.eval.tasks.finding import REGISTRY as REGISTRY
from dst.eval.tasks.finding import find as find
from dst.eval.tasks.judging import Figure as Figure
from dst.eval.tasks.judging import Result as Result
from dst.eval.tasks.judging import judge as judge
from dst.eval.tasks.lines import read as read
from dst.eval.tasks.pairs import Pair as Pair
from dst.eval.tasks.pairs import Retrieval as Retrieval
from dst.eval.tasks.pairs import Similarity as Similarity
from dst.eval.tasks.task import Task as Task

__all__ = [
    "Choice",
    "Continuation",
    "Continuations",
    "Figure",
    "MultipleChoice",
    "Pair",
    "Result",
    "Retrieval",
    "Similarity",
    "Task",
    "find",
    "judge",
    "read",
]
