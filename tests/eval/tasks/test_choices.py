"""Multiple choice: the likelihoods are those of NumPy, and who knows nothing is at chance."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dst.eval import tasks
from dst.eval.tasks import Choice, MultipleChoice
from tests.eval.tiny import decoder, encoder, letters, log_probability, uniform

MADE = [name for name, entry in tasks.REGISTRY.items() if entry.facts["judges"] == "decoder"]
SHORT = ("arithmetic-2", "closing")  # the others are evidence
ITEMS = (
    Choice("one two", (" three", " 4", " é"), 0),
    Choice("red green", (" blue", " a colour"), 1),
    Choice("x", ("y", "zz", "aaa", "b"), 2),
)


def outcomes(task, model):
    words = letters()
    return task.outcomes(model, task.prepare(words, [model]))


@pytest.mark.parametrize("normalize", ["nothing", "tokens", "bytes"])
def test_the_choice_is_the_most_likely_one_in_numpy(normalize):
    words, model, expected = letters([("t", "h")]), decoder(1, words=257), []
    for item in ITEMS:
        scores = []
        for choice in item.choices:
            before, following = (words.encode(x).ids for x in (item.prompt, choice))
            size = {"nothing": 1, "tokens": len(following), "bytes": len(choice.encode())}
            scores.append(log_probability(model, before, following)[0] / size[normalize])
        expected.append(float(np.argmax(scores) == item.answer))
    task = MultipleChoice("three", ITEMS, normalize)
    found = task.outcomes(model, task.prepare(words, [model]))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(task.chance, (1 / 3 + 1 / 2 + 1 / 4) / 3)
    assert task.figure(found, np.ones((1, 3), int)) == pytest.approx(np.mean(expected))


def test_long_choices_gain_by_normalization():
    model = uniform(decoder())
    item = (Choice("x", ("y", "abc"), 0), Choice("x", ("é", "abc"), 0), Choice("x", ("é", "b"), 0))
    assert outcomes(MultipleChoice("m", item), model).tolist() == [1, 1, 0]
    assert outcomes(MultipleChoice("m", item, "tokens"), model).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in SHORT else pytest.mark.evidence) for x in MADE]
)
def test_an_untrained_model_is_at_chance_within_its_interval(name):
    task = tasks.find(name)
    model = tasks.judge(task, decoder(), letters()).model
    assert model.low < task.chance < model.high
    assert model.high - model.low < 0.13  # an interval that says something


def test_a_model_that_finds_all_equally_likely_is_at_chance_exactly():
    task = tasks.find("closing", items=40)
    found = outcomes(task, uniform(decoder()))
    np.testing.assert_array_equal(found, 0.25)


def test_a_model_of_nan_is_never_right():
    model = decoder()
    model.final_norm.scale.set_value(jnp.full(16, jnp.nan))
    np.testing.assert_array_equal(outcomes(MultipleChoice("m", ITEMS), model), 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Choice("", ("a", "b"), 0), "prompt must be a text of at least one"),
        (lambda: Choice("x", ("a",), 0), "choices must be at least two texts"),
        (lambda: Choice("x", ["a", "b"], 0), "choices must be at least two texts"),
        (lambda: Choice("x", ("a", 3), 0), r"choices\[1\] must be a text .* got 3"),
        (lambda: Choice("x", ("a", "a"), 0), "choices must differ from each other"),
        (lambda: Choice("x", ("a", "b"), 2), "answer must be an integer >= 0 and <= 1, got 2"),
        (lambda: Choice("x", ("a", "b"), True), "answer must be an integer >= 0, got True"),
        (lambda: Choice("x", ("a", "\ud800"), 0), "half of a pair of surrogates"),
        (lambda: MultipleChoice("m", ()), "items must be a list of at least one entry"),
        (lambda: MultipleChoice("m", ITEMS, "byte"), "normalize .* Did you mean 'bytes'?"),
        (lambda: outcomes(MultipleChoice("m", ITEMS), encoder()), "task m judges .* the encoder"),
        (
            lambda: outcomes(MultipleChoice("m", ITEMS), decoder(context=12)),
            "task m: item 1 has 13 tokens, but the context of the model has 12",
        ),
        (
            lambda: outcomes(MultipleChoice("m", ITEMS), decoder(words=40)),
            "tokens must be below 40, the size of the vocabulary",
        ),
    ],
)
def test_bad_items_and_models_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
