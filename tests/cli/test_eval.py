"""Laws of ``dst eval``: its figures are those of ``dst.eval``; bad input ends with a message."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds

import dst.eval.tasks
import dst.nnx
from dst import activations, cli, eval, models
from tests.models.pretrained.checkpoints import BERT, bert, directory
from tests.pretrained import smollm2

TEXT = "The quick brown fox jumps over the lazy dog.\n" * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense model, a pruned one, an encoder, their tokenizer of bytes, and a text."""
    where = tmp_path_factory.mktemp("models")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(kinds.BPE(vocab={x: i for i, x in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    (where / "words").mkdir()
    made.save(str(where / "words" / "tokenizer.json"))
    sizes = {"width": 16, "layers": 1, "heads": 4, "hidden": 24, "rngs": nnx.Rngs(0)}
    model = models.Decoder((32,), 256, **sizes)
    models.save(where / "dense", model, tokenizer=where / "words")
    dst.nnx.prune(model, 0.5, attach_masks=False)
    models.save(where / "pruned", model, tokenizer=where / "words")
    models.save(where / "silent", model)
    models.save(where / "small", models.Decoder((32,), 99, **sizes), tokenizer=where / "words")
    made.save(str(directory(where / "bert", BERT, bert(BERT)) / "tokenizer.json"))
    (where / "fox.txt").write_text(TEXT)
    return where


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder; returns its code, stdout and stderr."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        code = cli.main(["eval", *arguments])
        return code, *capsys.readouterr()

    return call


def test_figures_are_those_of_the_function(run, folder):
    asked = ["--text", "fox.txt", "--windows", "7x32", "--against", "dense", "--json"]
    code, out, err = run("pruned", *asked)
    assert code == 0 and not err
    found = json.loads(out)
    words = models.tokenizer(folder / "words")
    windows = eval.consecutive(eval.tokens(words, TEXT[-len(TEXT) // 5 :]), 32, 7)
    pruned, dense = models.load(folder / "pruned"), models.load(folder / "dense")
    expected = eval.language(pruned, windows, tokenizer=words, against=dense)
    for name in ("perplexity", "bits_per_byte", "agreement", "kl", "tokens"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-6)
    np.testing.assert_allclose(found["against"]["perplexity"], expected.against.perplexity, 1e-6)
    assert found["sparsity"] == 0.5 and found["against"]["sparsity"] == 0
    prompt = eval.tokens(words, "The capital of France is")
    said = words.decode(eval.generate(pruned, prompt, 8).tolist(), skip_special_tokens=False)
    assert found["sample"] == "The capital of France is" + said  # 24 + 8: the context


def test_the_table_has_a_row_per_figure_and_a_column_per_model(run):
    few = ["--text", "fox.txt", "--windows", "2x32"]
    code, out, _ = run("pruned", *few, "--against", "dense", "--sample", "a")
    assert code == 0
    head, *rows, where, sample = out.splitlines()
    assert head.split() == ["model", "against"] and len(rows) == 5
    assert rows[2].split()[-2:] == ["0.5000", "0.0000"]
    assert rows[-1].startswith("KL in nats") and len(rows[-1].split()) == 4
    assert where == "62 tokens in 2 windows of 32, held out of fox.txt"
    assert sample.startswith(("sample: 'a", 'sample: "a'))
    code, out, _ = run("silent", *few, "--tokenizer", "words", "--sample", "")
    assert code == 0 and len(out.splitlines()) == 5 and "sample" not in out


def test_all_of_a_text_is_read_where_asked(run, folder):
    code, out, _ = run(
        "dense", "--text", "fox.txt", "--whole", "--windows", "allx32", "--sample", "", "--json"
    )
    found, count = json.loads(out), len(TEXT) // 32
    assert code == 0 and found["windows"] == [count, 32] and found["tokens"] == count * 31
    windows = np.frombuffer(TEXT.encode()[: count * 32], np.uint8).reshape(count, 32)
    words = models.tokenizer(folder / "words")
    tokens = np.array([words.encode(bytes(x).decode()).ids for x in windows])
    expected = eval.language(models.load(folder / "dense"), tokens)
    np.testing.assert_allclose(found["perplexity"], expected.perplexity, rtol=1e-6)


def test_figures_that_are_no_numbers_are_null_in_json(run, folder, tmp_path):
    model = models.load(folder / "dense")
    model.final_norm.scale.set_value(model.final_norm.scale.get_value() * np.nan)
    models.save(tmp_path / "out", model, tokenizer=folder / "words")
    code, out, _ = run(
        str(tmp_path / "out"), "--text", "fox.txt", "--windows", "2x32", "--sample", "", "--json"
    )
    assert code == 0 and json.loads(out)["perplexity"] is None


@pytest.mark.parametrize("method", ["top-k", "cats"])
def test_activations_are_made_sparse_by_the_other_part_of_the_text(run, folder, method):
    asked = ["--text", "fox.txt", "--windows", "3x32", "--sample", "", "--against", "dense"]
    sparse = ["--activations", method, "--activation-sparsity", "0.75"]
    code, out, _ = run("dense", *asked, *sparse, "--json")
    found = json.loads(out)
    assert code == 0 and found["activations"] == method
    assert found["activation_sparsity"] == pytest.approx(0.75, abs=0.02)
    assert found["perplexity"] != found["against"]["perplexity"] and 0 < found["kl"] < 1
    words, sides = models.tokenizer(folder / "words"), eval.sides("fox.txt")
    windows = eval.consecutive(eval.tokens(words, sides.held_out), 32, 3)
    drawn = eval.drawn(eval.tokens(words, sides.calibration), 32, 32, seed=0)
    model = models.load(folder / "dense")
    target = activations.REGISTRY[method].load()(0.75)
    activations.apply(model, target, np.split(drawn, 4))
    expected = eval.language(model, windows).perplexity
    np.testing.assert_allclose(found["perplexity"], expected, rtol=1e-4)
    code, out, _ = run("dense", *asked, *sparse)
    (row,) = (x for x in out.splitlines() if x.startswith("sparsity of their inputs"))
    assert code == 0 and float(row.split()[-1]) == pytest.approx(0.75, abs=0.02)


ITEM = '{"prompt": "The quick brown", "choices": [" fox", " dog", " cat"], "answer": 0}\n'
PAIRS = [("a cat", "a kitten", 4), ("a cat", "a stone", 1), ("a dog", "rain", 0)]


@pytest.fixture(scope="module")
def files(folder):
    """Task files, a model that can read two hundred bytes, and an encoder of bytes."""
    sizes = {"width": 16, "layers": 1, "heads": 4, "hidden": 24, "rngs": nnx.Rngs(1)}
    models.save(folder / "long", models.Decoder((256,), 256, **sizes), tokenizer=folder / "words")
    encoder = models.Encoder(32, 256, **sizes)
    models.save(folder / "sentences", encoder, tokenizer=folder / "words")
    (folder / "foxes.jsonl").write_text(ITEM * 4)
    lines = [json.dumps({"first": a, "second": b, "score": s}) for a, b, s in PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text(ITEM + "{\n")
    (folder / "wide.jsonl").write_text(ITEM.replace("The", "The " * 9))
    return folder


def test_tasks_are_judged_beside_perplexity(run, files):
    asked = ["--text", "fox.txt", "--windows", "2x32", "--sample", "", "--tasks"]
    few = ["foxes.jsonl, recall", "--items", "12", "--seed", "3", "--normalize", "tokens"]
    code, out, err = run("long", *asked, *few, "--against", "long", "--json")
    assert code == 0 and not err
    found, words, model = json.loads(out), models.tokenizer("words"), models.load("long")
    assert found["perplexity"] == found["against"]["perplexity"] and found["seed"] == 3
    assert list(found["tasks"]) == ["foxes.jsonl", "recall"]
    task = eval.tasks.find("recall", items=12, seed=3, normalize="tokens")
    expected = dataclasses.asdict(eval.tasks.judge(task, model, words, against=model, seed=3))
    assert found["tasks"]["recall"] == {k: x for k, x in expected.items() if k != "task"}
    assert found["tasks"]["recall"]["difference"] == {"value": 0, "low": 0, "high": 0}
    code, out, _ = run("pruned", *asked, "foxes.jsonl", "--against", "dense")
    figures, table = out.split("\n\n")
    head, row, note = table.splitlines()
    assert code == 0 and figures.splitlines()[0].split() == ["model", "against"]
    assert head.split() == "task measure items chance model against difference".split()
    assert row.split()[:4] == ["foxes.jsonl", "accuracy", "4", "0.333"] and len(row.split()) == 13
    assert note == "[95 % interval]; that of a difference is paired, over items"


def test_an_encoder_is_judged_by_tasks_alone(run, files):
    code, out, _ = run("sentences", "--tasks", "pairs.jsonl", "--json")
    (result,) = json.loads(out)["tasks"].values()
    assert code == 0 and "perplexity" not in json.loads(out)
    assert result["measure"] == "Spearman" and -1 <= result["model"]["value"] <= 1
    assert result["against"] is None
    code, out, _ = run("sentences", "--tasks", "pairs.jsonl")
    head, row, note = out.splitlines()
    assert code == 0 and head.split() == "task measure items chance model".split()
    assert row.startswith("pairs.jsonl  Spearman") and note == "[95 % interval]"


def test_the_help_names_the_tasks(capsys):
    assert cli.main(["eval", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in eval.tasks.REGISTRY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["long", "--tasks", "recal"], "task must be one of ['arithmetic-2', 'arithmetic-3', 'clo"),
        (["long", "--tasks", "foxes.jsonl,"], "task must be one of ["),
        (["long", "--tasks", "recall,recall"], "must name each task once, got 'recall' twice"),
        (["long", "--tasks", "no.jsonl"], "expected a task file at no.jsonl, found none"),
        (["long", "--tasks", "empty.jsonl"], "empty.jsonl is empty, expected an item in each line"),
        (["long", "--tasks", "broken.jsonl"], "broken.jsonl, line 2: expected a JSON object"),
        (["dense", "--tasks", "wide.jsonl"], "item 1 has 52 tokens, but the context of the model"),
        (["long", "--tasks", "recall", "--items", "1"], "items must be an integer >= 2, got 1"),
        (["long", "--tasks", "recall", "--seed", "-1"], "seed must be an integer >= 0, got -1"),
        (
            ["long", "--tasks", "foxes.jsonl", "--seed", "-1"],
            "seed must be an integer >= 0, got -1",
        ),
        (["long", "--items", "9"], "--items needs tasks that are made: --tasks recall."),
        (["long", "--tasks", "recall", "--normalize", "x"], "normalize must be one of ['nothing'"),
        (["silent", "--tasks", "foxes.jsonl"], "expected tokenizer.json in silent, found none."),
        (["small", "--tasks", "foxes.jsonl"], "tokens must be below 99, the size of the vocab"),
        (["long", "--tasks", "retrieval"], "task retrieval judges models of the kind encoder, got"),
        (["bert", "--tasks", "pairs.jsonl", "--activations", "cats"], "this is an encoder"),
        (["bert", "--tasks", "foxes.jsonl"], "foxes.jsonl judges models of the kind decoder, got"),
    ],
    ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "",
)
def test_bad_tasks_end_with_2_and_a_message(arguments, message, run, files):
    code, out, err = run(*arguments)
    assert code == 2 and not out
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dense", "--activations", "cat"], "activations must be one of ['cats', 'chess', 'teal'"),
        (["dense", "--activations", "cats", "--activation-sparsity", "1"], "sparsity of CATS must"),
        (["dense", "--activation-sparsity", "0.5"], "needs a method: --activations cats"),
        (
            ["dense", "--activations", "cats", "--whole"],
            "--activations needs the part that --whole",
        ),
        (["nowhere"], "expected tokenizer.json in nowhere, found none. --tokenizer PATH"),
        (["nowhere", "--tokenizer", "words"], "found nothing at nowhere"),
        (["silent"], "expected tokenizer.json in silent, found none. --tokenizer PATH"),
        (["fox.txt", "--tokenizer", "words"], "fox.txt is no GGUF file"),
        (["dense", "--windows", "8"], "must be NxLENGTH, such as 32x256, got '8'"),
        (["dense", "--windows", "0x32"], "count must be an integer >= 1, got 0"),
        (["dense", "--windows", "2x1"], "length must be an integer >= 2, got 1"),
        (
            ["dense", "--windows", "2x33"],
            "at most 32 tokens long, the context of the model",
        ),
        (["dense", "--windows", "9x32"], "9 windows of 32 tokens need 288, found 270"),
        (["dense", "--text", "topic"], "Did you mean 'topics'?"),
        (["dense", "--sample", "x" * 32], "--sample must be shorter than 32 tokens"),
        (["small"], "tokens must be below 99, the size of the vocabulary"),
        (["dense", "--against", "small"], "must have the same vocabulary, got [256, 99]"),
        (["dense", "--against", "bert"], "must predict the next token, as dst.models.Decoder does"),
        (["bert"], "got an encoder: it has no perplexity"),
    ],
    ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "",
)
def test_bad_input_ends_with_2_and_a_message(arguments, message, run):
    few = ["--text", "fox.txt", "--windows", "2x16"]
    given = [x for i in (0, 2) if few[i] not in arguments for x in few[i : i + 2]]
    code, out, err = run(*arguments, *given)
    assert code == 2 and not out
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.evidence
def test_smollm2_knows_the_capital_of_france_and_english(run):
    code, out, _ = run(str(smollm2()), "--windows", "4x32", "--json")
    found = json.loads(out)
    assert code == 0 and found["sample"].startswith("The capital of France is Paris")
    assert 5 < found["perplexity"] < 200 and found["bits_per_byte"] < 2
    assert found["sparsity"] < 0.01 and found["against"] is None
