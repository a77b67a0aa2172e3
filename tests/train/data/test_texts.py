"""Laws of text files: what is read, what is held out, and what an error names."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dst.train import setup
from dst.train.config import run as config
from dst.train.data import text
from dst.train.objectives.next_token import NextToken
from tests.training import ROOT, batch, small


def _load(pattern, **settings):
    return text.load(str(pattern), text.Text(**{"context": 4, **settings}))


def _bytes(split):
    """The text of a split, whose pieces lie side by side."""
    inputs, labels = split.take(np.arange(len(split)))
    np.testing.assert_array_equal(inputs[:, 1:], labels[:, :-1])
    return bytes([int(inputs[0, 0]), *labels.ravel().tolist()])


@pytest.fixture
def corpus(tmp_path):
    """Nine files of text in two folders, and others."""
    for i in range(9):
        folder = tmp_path / "corpus" / ("a" if i % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.txt").write_bytes(bytes([48 + i]) * (100 + i))
    (tmp_path / "corpus" / "a" / "notes.md").write_text("left out")
    return tmp_path / "corpus"


def test_the_end_of_a_single_file_is_held_out(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(101)))
    found = _load(path, test=0.2)
    assert (found.shape, found.classes, found.objective) == ((4,), 256, "next-token")
    assert _bytes(found.train) == bytes(range(81)) and _bytes(found.test) == bytes(range(81, 98))


def test_of_several_files_whole_ones_are_held_out_by_their_names(corpus):
    found = _load(corpus / "**" / "*.txt", test=0.3)
    train, test = (x.text.tobytes() for x in (found.train, found.test))
    assert not set(train) & set(test) and len(train) + len(test) == 9 * 100 + 36
    held_out = sorted(set(test))
    assert len(held_out) == 2  # three files are more than 30 %
    assert sorted(train + test) == sorted(b"".join(x.read_bytes() for x in corpus.rglob("*.txt")))
    # The same elsewhere: names are those below the part without wildcards.
    corpus.rename(corpus.with_name("elsewhere"))
    again = _load(corpus.with_name("elsewhere") / "**" / "*.txt", test=0.3)
    assert again.identity == found.identity and again.test.text.tobytes() == test
    # At least one, the smallest.
    one = _load(corpus.with_name("elsewhere") / "**" / "*.txt", test=0.01)
    assert one.test.text.tobytes() == b"0" * 100


def test_evaluations_read_so_many_pieces_evenly_spread(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(201)))
    whole = _load(path, test=0.5, held_out=None).test
    assert len(whole) == 24
    few = _load(path, test=0.5, held_out=3).test
    np.testing.assert_array_equal(few.take(np.arange(3))[0][:, 0], [101, 145, 193])
    assert len(_load(path, test=0.5, held_out=1000).test) == 24


def test_other_text_and_other_splits_have_another_identity(corpus):
    pattern = corpus / "*" / "*.txt"
    first = _load(pattern).identity["sha256"]
    assert _load(pattern).identity["sha256"] == first
    assert _load(pattern, test=0.5).identity["sha256"] != first
    (corpus / "a" / "1.txt").write_bytes(b"9" * 101)
    with pytest.raises(ValueError, match=f"this run is of data with SHA-256 {first[:12]}"):
        _load(pattern, sha256=first)


def test_errors_name_the_files(corpus):
    with pytest.raises(ValueError, match=r"expected files of text at .*\*.md"):
        _load(corpus / "b" / "*.md")
    with pytest.raises(ValueError, match=r"found the folder .*corpus/\*\*/\*.txt"):
        _load(corpus)
    with pytest.raises(
        ValueError, match=r"data.context must be below .*, 836 and 100 bytes, got 1"
    ):
        _load(corpus / "*" / "*.txt", context=100)
    for path in corpus.rglob("*.txt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 files that are not empty, of several"):
        _load(corpus / "*" / "*.txt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": 1.0}, r"test must be a fraction in \(0, 1\)"),
        ({"context": 0}, "context must be an integer >= 1"),
        ({"held_out": 0}, "held_out must be an integer >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        text.Text(**settings)


TINY = (
    "model={'name': 'decoder', 'width': 8, 'layers': 1, 'heads': 2, 'hidden': 8}",
    "train={steps: 3, log_every: 1}",
    "method=static",
    "optimizer={name: sgd, learning_rate: 0.1}",
    "sparsify.select='**/up/kernel'",
)


def test_a_run_on_text_pins_it_and_its_pattern(corpus, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    section = "data={name: 'text:corpus/**/*.txt', batch_size: 2, context: 4}"
    made = setup.make(small(corpus.parent, section, *TINY))
    _, metrics = made.step(made.begin(), *batch(made, 0), topology=False)
    bits = float(metrics["loss"]) / np.log(2)
    assert float(metrics["bits_per_byte"]) == pytest.approx(bits, rel=1e-5)
    (corpus.parent / "saved.yaml").write_text(config.dump(made.config))
    saved = config.load(corpus.parent / "saved.yaml")
    assert saved == made.config and saved.data.name == f"text:{corpus}/**/*.txt"
    for path in corpus.rglob("*1.txt"):
        path.write_bytes(b"another text")
    with pytest.raises(setup.SetupError, match="this run is of data with SHA-256"):
        setup.make(saved)


def test_networks_of_images_are_refused_for_text(tmp_path):
    with pytest.raises(
        config.ConfigError, match=r"one of \['decoder', 'pretrained'\] for data 'text:a.txt'"
    ):
        small(tmp_path, "data={name: 'text:a.txt'}")


def test_bits_per_byte_of_tokens_count_the_bytes_in_them():
    batch = jnp.zeros((2, 3, 16)), jnp.zeros((2, 3), int)
    objective = NextToken().of((2.0,))
    scores = objective.loss(lambda x: x, batch, jax.random.key(0))[1]
    assert float(scores["bits_per_byte"]) == pytest.approx(2.0, rel=1e-6)  # 4 bits per token
    assert NextToken(bytes_per_token=8.0).of((2.0,)).bytes_per_token == 8.0
    assert NextToken().of(None) == NextToken()


@pytest.fixture
def tokenizer(tmp_path):
    """A file of a tokenizer of words."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"one": 0, "two": 1, "three": 2, "?": 3}, unk_token="?")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "words.json"))
    return tmp_path / "words.json"


def test_text_is_read_in_the_tokens_of_a_tokenizer(tokenizer, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two three four " * 50)
    found = _load(path, tokenizer=str(tokenizer), test=0.5)
    assert found.classes == 4 and found.train.text.tolist() == [0, 1, 2, 3] * 25
    assert found.units == (19 / 4,)
    assert found.identity != _load(path, test=0.5).identity
    path.write_bytes(b"one two \xff three" * 50)
    with pytest.raises(ValueError, match=r"a.txt has another byte at 8. .*data.tokenizer=null"):
        _load(path, tokenizer=str(tokenizer), test=0.5)
    with pytest.raises(ValueError, match=r"data.tokenizer: .*a.txt holds no tokenizer"):
        _load(path, tokenizer=str(path), test=0.5)


def test_a_tokenizer_is_looked_for_beside_the_config(tmp_path):
    (tmp_path / "words.json").write_text("{}")
    section = "data={name: 'text:a.txt', tokenizer: words.json}"
    found = small(tmp_path, section, *TINY).data.value
    assert found.tokenizer == f"{tmp_path}/words.json"


def test_without_its_package_the_message_names_it(tmp_path):
    (tmp_path / "a.txt").write_text("one two " * 100)
    (tmp_path / "words.json").write_text("{}")
    program = f"""
import sys
sys.modules["tokenizers"] = None
from dst.train.data import text
text.load({str(tmp_path / "a.txt")!r}, text.Text(tokenizer={str(tmp_path / "words.json")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs the module tokenizers, which is not installed: pip install" in done.stderr


def test_a_file_of_a_tokenizer_that_is_missing_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("one two " * 100)
    with pytest.raises(ValueError, match=r"expected a file at .*words.json, found none"):
        _load(tmp_path / "a.txt", tokenizer=str(tmp_path / "words.json"))
