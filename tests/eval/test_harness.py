"""Laws of the adapter for lm_eval: likelihoods and text are those of the model."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance

from dst import models
from dst.eval import generate
from dst.eval.harness import LanguageModel
from tests.studies.pruning import small


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    longer = {"eos_token_id": 0, "max_position_embeddings": 64}
    return small.decoder(tmp_path_factory.mktemp("model") / "m", **longer)


@pytest.fixture(scope="module")
def ours(path):
    return LanguageModel(path, batch_size=2)


def requests(kind, *arguments):
    return [Instance(kind, {}, x, i) for i, x in enumerate(arguments)]


def by_hand(path, context, continuation):
    """Log-likelihood and greediness from the logits of the whole sequence, in NumPy."""
    model, words = models.load(path), models.tokenizer(path)
    first, both = (words.encode(x).ids for x in (context, context + continuation))
    logits = np.asarray(model(jnp.asarray([both])), np.float64)[0, :-1]
    logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logs -= logits.max(-1, keepdims=True)
    places = range(len(first) - 1, len(both) - 1)
    total = sum(logs[i, both[i + 1]] for i in places)
    return total, all(logits[i].argmax() == both[i + 1] for i in places)


def test_likelihoods_are_those_of_the_logits(path, ours):
    pairs = [("The fox", " jumps"), ("a", "b"), ("The quick brown fox", " jumps over")]
    found = ours.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    for pair, (total, greedy) in zip(pairs, found, strict=True):
        expected = by_hand(path, *pair)
        assert total == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_greedy_text_is_what_the_model_says_and_ends_at_a_stop_word(path, ours):
    def said(until, count):
        options = {"until": until, "max_gen_toks": count}
        (text,) = ours.generate_until(
            requests("generate_until", ("The fox", options)), disable_tqdm=True
        )
        return text

    whole = said([], 6)
    following = generate(models.load(path), np.array(ours.tok_encode("The fox")), 6)
    assert whole == ours.tokenizer.decode(following.tolist())
    assert said([whole[2]], 6) == whole[: whole.index(whole[2])]
    with pytest.raises(ValueError, match="without sampling"):
        options = {"do_sample": True, "temperature": 1.0}
        ours.generate_until(requests("generate_until", ("a", options)), disable_tqdm=True)


def test_a_long_text_is_read_in_windows_of_the_context(path, ours):
    text = "The quick brown fox. " * (ours.max_length // 8)
    tokens = ours.tok_encode(text)
    assert len(tokens) > 2 * ours.max_length
    (found,) = ours.loglikelihood_rolling(
        requests("loglikelihood_rolling", (text,)), disable_tqdm=True
    )
    model, total = models.load(path), 0.0
    before = [ours.eot_token_id, *tokens]
    for first in range(0, len(tokens), ours.max_length):
        last = min(first + ours.max_length, len(tokens))
        start = max(last - ours.max_length, 0)  # the last window has the whole context, too
        logits = np.asarray(model(jnp.asarray([before[start:last]])), np.float64)[0]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total += sum(logs[i - start, tokens[i]] for i in range(first, last))
    assert found == pytest.approx(total, rel=1e-5)


def test_the_harness_runs_a_task_of_ones_own(tmp_path, path):
    lines = [
        {"question": "The quick brown", "choices": [" fox", " dog"], "answer": 0},
        {"question": "The lazy", "choices": [" fox", " dog"], "answer": 1},
    ]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = {
        "task": "foxes",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "task.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    ours = LanguageModel(path)
    found = simple_evaluate(ours, tasks=[task], verbosity="ERROR", bootstrap_iters=0)
    right = []
    for line in lines:
        totals = [by_hand(path, line["question"], x)[0] for x in line["choices"]]
        right.append(np.argmax(totals) == line["answer"])
    assert found["results"]["foxes"]["acc,none"] == np.mean(right)


@pytest.mark.parametrize("size", ["auto", 0])
def test_a_batch_size_is_a_number(path, size):
    with pytest.raises(ValueError, match="batch_size must be"):
        LanguageModel(path, batch_size=size)


def test_a_model_that_predicts_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="encoder"):
        LanguageModel(small.encoder(tmp_path / "bert"))
