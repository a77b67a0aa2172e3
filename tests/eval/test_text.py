"""Text and its windows: both sides share nothing, and each window is a piece of the text."""

from __future__ import annotations

from pydoc_data.topics import topics

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from dst.eval import consecutive, drawn, sides, text, tokens


def _squeezed(x):
    return {" ".join(part.split()) for part in x.split("\n\n")} - {""}


@pytest.fixture(scope="module")
def letters():
    """A tokenizer of single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return made


def test_topics_are_divided_by_entries_and_the_sides_share_no_paragraph():
    found = sides("topics")
    one, two = _squeezed(found.calibration), _squeezed(found.held_out)
    assert not one & two and one | two == set().union(*map(_squeezed, topics.values()))
    whole = [x for x in topics.values() if x in found.held_out]
    assert 0.1 < len(whole) / len(topics) < 0.4
    assert sides("topics") == found


def test_the_standard_library_is_divided_as_the_data_set_is():
    found = sides("stdlib")
    assert len(found.calibration) > 10 * len(found.held_out) > 1_000_000
    assert "import" in found.held_out


def test_the_whole_text_has_both_sides(tmp_path):
    (tmp_path / "a.txt").write_text("é" * 50 + "x", encoding="utf-8")
    assert text.whole(str(tmp_path / "a.txt")) == "é" * 50 + "x"
    assert _squeezed(text.whole("topics")) == set().union(*map(_squeezed, topics.values()))
    found = sides("stdlib")
    assert len(text.whole("stdlib")) == len(found.calibration) + len(found.held_out)


def test_of_a_file_the_last_fifth_is_held_out_and_no_character_is_cut(tmp_path):
    (tmp_path / "a.txt").write_text("é" * 50 + "x", encoding="utf-8")
    found = sides(str(tmp_path / "a.txt"))
    assert found == text.Sides("é" * 40, "é" * 9 + "x")  # one é lies on the border


def test_of_several_files_whole_ones_are_held_out(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"file {i}. ")
    found = sides(str(tmp_path / "*.txt"))
    assert found.held_out.count("file") == 2 and found.calibration.count("file") == 8
    for i in range(10):
        assert (f"file {i}" in found.held_out) != (f"file {i}" in found.calibration)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("topic", "'topics', 'stdlib' or a pattern .* got 'topic', .* Did you mean 'topics'?"),
        ("nowhere/*.txt", "got 'nowhere/\\*.txt', and no file is there.$"),
        (".", "got '.', and no file is there"),
        ("latin.txt", "must be UTF-8, latin.txt has another byte at 2"),
    ],
)
def test_text_that_is_not_there_is_refused(source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=words):
        sides(source)


def test_long_texts_are_cut_at_lines_and_lose_nothing(letters, monkeypatch):
    monkeypatch.setattr(text, "_AT_ONCE", 10)
    whole = "one\ntwo\nthree four five six seven\n\neight"
    found = tokens(letters, whole)
    assert found.dtype == np.int32 and len(found) == len(whole)
    np.testing.assert_array_equal(found, letters.encode(whole).ids)
    assert tokens(letters, "").shape == (0,)


def test_consecutive_windows_are_the_text_itself():
    ids = np.arange(23, dtype=np.int32)
    np.testing.assert_array_equal(consecutive(ids, 5, 3).ravel(), ids[:15])
    np.testing.assert_array_equal(consecutive(ids, 5).ravel(), ids[:20])


def test_drawn_windows_lie_anywhere_in_the_text_and_follow_from_the_seed():
    ids = np.arange(20, dtype=np.int32)
    found = drawn(ids, 4, 2000, seed=3)
    assert found.shape == (2000, 4) and found.dtype == np.int32
    np.testing.assert_array_equal(found - found[:, :1], np.tile(np.arange(4), (2000, 1)))
    counts = np.bincount(found[:, 0], minlength=17)
    assert len(counts) == 17 and counts.min() > 70  # 118 expected, standard deviation 11
    np.testing.assert_array_equal(found, drawn(ids, 4, 2000, seed=3))
    assert (found != drawn(ids, 4, 2000, seed=4)).any()
    np.testing.assert_array_equal(drawn(ids[:4], 4, 1, seed=0), ids[None, :4])


@pytest.mark.parametrize("windows", [lambda x: consecutive(x, 8, 4), lambda x: consecutive(x, 32)])
def test_text_that_is_too_short_is_refused_with_both_numbers(windows):
    with pytest.raises(ValueError, match=r"windows? of \d+ tokens need 32, found 31"):
        windows(np.arange(31))


def test_windows_without_a_prediction_are_refused():
    for call in (lambda n: consecutive(np.arange(9), n, 1), lambda n: drawn(np.arange(9), n, 1, 0)):
        with pytest.raises(ValueError, match="length must be an integer >= 2, got 1"):
            call(1)
    with pytest.raises(ValueError, match="a window of 10 tokens need 10, found 9"):
        drawn(np.arange(9), 10, 1, 0)
    with pytest.raises(ValueError, match="count must be an integer >= 1, got 0"):
        drawn(np.arange(9), 2, 0, 0)
