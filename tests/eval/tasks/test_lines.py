"""Task files: what is well formed is read as it stands; all else is refused with its line."""

from __future__ import annotations

import json

import pytest

from dst.eval import tasks
from dst.eval.tasks import (
    Choice,
    Continuation,
    Continuations,
    MultipleChoice,
    Pair,
    Retrieval,
    Similarity,
)

CHOICE = {"prompt": "1 + 1 =", "choices": [" 2", " é"], "answer": 1}
WHOLE = {"prompt": "a", "continuation": "b"}
PAIRS = [{"first": "a", "second": x, "score": i} for i, x in enumerate("bcd")]


def write(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_items_are_those_of_the_file(tmp_path):
    file, ended = write(tmp_path / "t.jsonl", CHOICE, CHOICE, ""), str(tmp_path / "t.jsonl")
    expected = (Choice("1 + 1 =", (" 2", " é"), 1),) * 2
    assert tasks.read(file) == MultipleChoice(ended, expected)
    assert tasks.find(ended, normalize="bytes") == MultipleChoice(ended, expected, "bytes")
    found = tasks.read(write(file, WHOLE))
    assert found == Continuations(ended, (Continuation("a", "b"),))
    pairs = [{k: x for k, x in pair.items() if k != "score"} for pair in PAIRS]
    assert tasks.read(write(file, *pairs)) == Retrieval(ended, tuple(Pair("a", x) for x in "bcd"))
    scored = tuple(Pair("a", x, i) for i, x in enumerate("bcd"))
    assert tasks.read(write(file, *PAIRS)) == Similarity(ended, scored)
    file.write_bytes(json.dumps(WHOLE).encode() + b"\r\n")
    assert len(tasks.read(file)) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([""], "t.jsonl is empty, expected an item in each line, such as {"),
        ([CHOICE, "", CHOICE], "line 2: expected a JSON object such as .*, found an empty line"),
        ([CHOICE, '{"prompt": '], "line 2: expected a JSON object .* Expecting value at character"),
        (["[1, 2]"], r"line 1: expected a JSON object .*, got \[1, 2\]"),
        (["[" * 100_000], "line 1: expected a JSON object, found too many brackets"),
        (
            [{"prompt": "a", "choice": ["a", "b"], "answer": 0}],
            "line 1: the keys must be one of .prompt, choices, answer; prompt, continuation; .* "
            "Did you mean 'choices'?",
        ),
        ([{}], "line 1: the keys must be one of"),
        ([CHOICE, WHOLE], "line 2: the keys must be .*'answer'., as in the first line, got"),
        ([{**CHOICE, "answer": 2}], "line 1: answer must be an integer >= 0 and <= 1, got 2"),
        ([{**CHOICE, "answer": "1"}], "line 1: answer must be an integer >= 0, got '1'"),
        ([CHOICE, {**CHOICE, "choices": "ab"}], "line 2: choices must be at least two texts"),
        ([{**CHOICE, "choices": [" a", 3]}], r"line 1: choices\[1\] must be a text"),
        ([{**CHOICE, "choices": [" a", [" b"]]}], r"line 1: choices\[1\] must be a text"),
        ([{**CHOICE, "prompt": None}], "line 1: prompt must be a text of at least one character"),
        ([{**WHOLE, "continuation": ""}], "line 1: continuation must be a text"),
        (
            [PAIRS[0], {**PAIRS[1], "score": None}],
            "line 2: score must be a finite .*, got None",
        ),
        (['{"first": "a", "second": "b", "score": NaN}'], "line 1: expected finite numbers, found"),
        (PAIRS[:2], "t.jsonl: items must be at least three pairs, got 2"),
        ([{"first": "a", "second": "b"}] * 2, "t.jsonl: items must have different second"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_what_is_ill_formed_is_refused_with_its_line(lines, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        tasks.read(write(tmp_path / "t.jsonl", *lines))


def test_files_that_are_not_there_or_no_text_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a task file at no.jsonl, found none"):
        tasks.find("no.jsonl")
    file = write(tmp_path / "t.jsonl", CHOICE)
    file.write_bytes(file.read_bytes() + b"\n\xff")
    with pytest.raises(ValueError, match=r"t.jsonl, line 2: expected UTF-8. Convert the file"):
        tasks.read(file)


def test_names_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match=r"task must be one of \['arith.* Did you mean 'recall'?"):
        tasks.find("recal")
    with pytest.raises(ValueError, match="Name a file of your own as FILE.jsonl"):
        tasks.find("xyzzy")
