"""Tasks of a user: files of JSON lines. They are read as data; nothing in them is run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.text import shown
from dst.eval.tasks.choices import Choice, MultipleChoice
from dst.eval.tasks.continuations import Continuation, Continuations
from dst.eval.tasks.pairs import Pair, Retrieval, Similarity
from dst.eval.tasks.task import Task

_EXAMPLE = '{"prompt": "1 + 1 =", "choices": [" 2", " 3"], "answer": 0}'
_FORMS: dict[tuple[str, ...], tuple[type, Callable[..., Task]]] = {
    ("prompt", "choices", "answer"): (Choice, MultipleChoice),
    ("prompt", "continuation"): (Continuation, Continuations),
    ("first", "second"): (Pair, Retrieval),
    ("first", "second", "score"): (Pair, Similarity),
}


def read(path: str | os.PathLike[str], normalize: str = "nothing") -> Task:
    """The task of a file; each of its lines is a JSON object, an item.

    All lines have the same keys, and those say what the task is:

    * ``prompt``, ``choices``, ``answer``: :class:`MultipleChoice`. ``choices`` is a list of
      at least two texts, ``answer`` the index of the right one, from 0.
    * ``prompt``, ``continuation``: :class:`Continuations`.
    * ``first``, ``second``: :class:`Retrieval`.
    * ``first``, ``second``, ``score``: :class:`Similarity`. ``score`` is a number.

    Args:
      path: of a UTF-8 file.
      normalize: as for :class:`MultipleChoice`; other tasks do not use it.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an empty file, or a line that is no item; it names the line and what was expected.

    Example:
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     file = Path(folder, "capitals.jsonl")
      ...     line = '{"prompt": "Paris is in", "choices": [" France", " Peru"], "answer": 0}'
      ...     _ = file.write_text(line)
      ...     len(read(file))
      1

    Checked against: ill-formed files, tests/eval/tasks/test_lines.py.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"expected a task file at {source}, found none.")
    try:
        lines = source.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        number = source.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{source}, line {number}: expected UTF-8. Convert the file.") from error
    if not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{source} is empty, expected an item in each line, such as {_EXAMPLE}.")
    items, form = [], None
    for number, line in enumerate(lines, 1):
        try:
            found = _object(line)
            form = form or _form(found)
            items.append(_item(found, form))
        except ValueError as error:
            raise ValueError(f"{source}, line {number}: {error}") from error
    assert form is not None  # there is a line
    task = _FORMS[form][1]
    options = {"normalize": normalize} if task is MultipleChoice else {}
    try:
        return task(str(source), tuple(items), **options)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        what = f"{error.msg} at character {error.pos + 1}" if line.strip() else "an empty line"
        raise ValueError(f"expected a JSON object such as {_EXAMPLE}, found {what}.") from error
    except RecursionError as error:
        raise ValueError("expected a JSON object, found too many brackets in brackets.") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object such as {_EXAMPLE}, got {shown(found)}.")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"expected finite numbers, found {word}.")


def _form(found: dict[str, Any]) -> tuple[str, ...]:
    for form in _FORMS:
        if found.keys() == set(form):
            return form
    forms = "; ".join(", ".join(x) for x in _FORMS)
    known = {key for form in _FORMS for key in form}
    strange = [x for x in found if x not in known]
    hint = checks.nearest(strange[0], sorted(known)) if strange else ""
    raise ValueError(f"the keys must be one of [{forms}], got {shown(list(found))}.{hint}")


def _item(found: dict[str, Any], form: tuple[str, ...]) -> Any:
    if found.keys() != set(form):
        raise ValueError(
            f"the keys must be {list(form)}, as in the first line, got {shown(list(found))}."
        )
    if "score" in form and found["score"] is None:
        raise ValueError("score must be a finite number, got None.")
    if isinstance(found.get("choices"), list):
        found = {**found, "choices": tuple(found["choices"])}
    return _FORMS[form][0](**found)
