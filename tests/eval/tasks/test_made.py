"""Tasks that are made: the right choice is right, chance is what they say, seeds decide all."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dst.eval import sides, tasks
from dst.eval.intervals import wilson
from dst.eval.tasks.closing import places
from dst.train.data import stdlib

CHOICES = [name for name, entry in tasks.REGISTRY.items() if entry.facts["judges"] == "decoder"]


def test_the_names_are_those_of_the_files():
    assert set(tasks.REGISTRY) == {*CHOICES, "retrieval"} and len(CHOICES) == 5


@pytest.mark.parametrize("name", list(tasks.REGISTRY))
def test_the_seed_decides_the_items(name):
    task = tasks.find(name, items=21, seed=5)
    assert task == tasks.find(name, items=21, seed=5) and len(task) == 21
    assert task.items != tasks.find(name, items=21, seed=6).items
    assert len(set(task.items)) == 21 and task.name == name
    for options in ({"items": 1}, {"seed": -1}, {"items": True}):
        with pytest.raises(ValueError, match="must be an integer >="):
            tasks.find(name, **options)


@pytest.mark.parametrize("name", CHOICES)
def test_who_has_favourites_is_at_chance(name):
    # A score for each choice by its text alone, by its place, or by its place in the prompt.
    task, random, right = tasks.find(name, items=1000), np.random.default_rng(0), Counter()
    assert task.chance == 0.25
    scores = {x: random.random() for x in sorted({x for i in task.items for x in i.choices})}
    rules = {
        "text": lambda item: max(item.choices, key=scores.get),
        "first": lambda item: item.choices[0],
        "last": lambda item: item.choices[-1],
        "smallest": lambda item: min(item.choices, key=lambda x: (len(x), x)),
    }
    if name != "closing":  # where the last quote is that which opens
        rules["last in the prompt"] = lambda item: max(item.choices, key=item.prompt.rfind)
        rules["first in the prompt"] = lambda item: min(item.choices, key=item.prompt.find)
    for item in task.items:
        for rule, chosen in rules.items():
            right[rule] += chosen(item) == item.choices[item.answer]
    for rule in rules:
        low, high = wilson(right[rule] / 1000, 1000, level=0.999)
        assert low < 0.25 < high, (rule, right[rule])


@pytest.mark.parametrize(("name", "digits"), [("arithmetic-2", 2), ("arithmetic-3", 3)])
def test_sums_are_those_of_python(name, digits):
    signs, steps = Counter(), Counter()
    for item in tasks.find(name).items:
        *examples, problem = item.prompt.split("\n")
        assert len(examples) == 3
        for example in (*examples, problem + item.choices[item.answer]):
            one, sign, other, result = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", example).groups()
            assert len(one) == len(other) == digits
            assert int(result) == (int(one) + int(other) if sign == "+" else int(one) - int(other))
        numbers = sorted(map(int, item.choices))
        assert len({len(x) for x in item.choices}) == 1 and len(set(np.diff(numbers))) == 1
        signs[sign] += 1
        steps[numbers[1] - numbers[0]] += 1
    assert min(signs.values()) > 60 and set(steps) == {10**i for i in range(digits)}


def test_the_captain_is_the_one_of_the_ship():
    for item in tasks.find("recall").items:
        facts = dict(re.findall(r"captain of the (\w+) is( \w+)\.", item.prompt))
        (ship,) = re.findall(r"captain of the (\w+) is$", item.prompt)
        assert len(facts) == 4 and facts[ship] == item.choices[item.answer]
        assert set(facts.values()) == set(item.choices)


def test_what_is_repeated_is_what_came_next():
    for item in tasks.find("repetition").items:
        words, again = (x.split() for x in item.prompt.split("\n"))
        start = words.index(again[0])
        assert words[start : start + 2] == again and len(set(words)) == 12
        assert f" {words[start + 2]}" == item.choices[item.answer]
        assert all(item.prompt.split().count(x.strip()) == 1 for x in item.choices)


def test_what_closes_is_in_the_held_out_modules_and_opens_in_the_prompt():
    sources = stdlib.modules(Path(sysconfig.get_paths()["stdlib"]))
    held_out = "\0".join(x.decode() for n, x in sources.items() if stdlib.is_held_out(n))
    items = tasks.find("closing", items=40).items
    opens = {")": "(", "]": "[", "'": "'", '"': '"'}
    for item in items:
        closer = item.choices[item.answer]
        assert item.prompt + closer in held_out and opens[closer] in item.prompt
        assert len(item.prompt) <= 200
    assert set(Counter(x.choices[x.answer] for x in items).values()) == {10}
    with pytest.raises(ValueError, match="task closing: items must be at most"):
        tasks.find("closing", items=10**6)


def test_brackets_and_strings_are_found_where_they_close():
    text = "x = call(first[index], 'a word', r'raw', [])\ny = (\n    'no (', \"it's\", name\n)\n"
    found = [(text[i], text[j], text[i + 1 : j]) for i, j in places(text)]
    assert found == [
        ("[", "]", "index"),
        ("'", "'", "a word"),
        ("(", ")", "first[index], 'a word', r'raw', []"),
    ]
    assert list(places("f(name)\n'''not closed")) == [(1, 6)]
    for page in ("\x0c", "\x1d"):  # signs that do not end a line
        text = f"a = 1\n{page if page != chr(29) else '# ' + page}\nb = call(name)\n"
        assert [text[i : j + 1] for i, j in places(text)] == ["(name)"]


def test_sentences_follow_each_other_in_the_held_out_text():
    text = " ".join(sides("topics").held_out.split())
    seen = Counter()
    for pair in tasks.find("retrieval").items:
        assert re.search(re.escape(pair.first) + " +" + re.escape(pair.second), text)
        seen.update((pair.first, pair.second))
    assert set(seen.values()) == {1} and len(seen) == 200
    with pytest.raises(ValueError, match="task retrieval: items must be at most"):
        tasks.find("retrieval", items=10**6)
