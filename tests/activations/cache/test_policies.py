"""What each policy keeps, as worked out by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dst.activations.cache import (
    H2O,
    TOVA,
    CaM,
    DoubleSparsity,
    Full,
    Local,
    SnapKV,
    StreamingLLM,
    Strided,
)
from dst.activations.cache.layer import highest, lowest


class Head:
    """The positions and scores of one head, of which attention weights are given."""

    def __init__(self, policy, rows):
        """``rows``: causal attention of a prompt, a row per query."""
        self.rule, n = policy.rule(), len(rows)
        self.position, self.time = np.arange(n), n - 1
        table = np.array([[*row, *[0.0] * (n - len(row))] for row in rows])
        self.score = self._scored(np.zeros(n), table)
        if n > self.rule.budget:
            priority = self.rule.priority(*self._arrays())
            self._keep(np.asarray(highest(priority, self.rule.budget))[0, 0])

    def step(self, row):
        """A new token attends to all entries and itself."""
        self.time += 1
        self.position = np.append(self.position, self.time)
        self.score = self._scored(np.append(self.score, 0.0), np.array([row]))
        if len(self.position) > self.rule.budget:
            gone = lowest(
                self.rule.priority(*self._arrays()), jnp.asarray(self.position)[None, None]
            )
            assert gone.sum() == 1
            self._keep(np.flatnonzero(~np.asarray(gone)[0, 0]))

    def _arrays(self):
        score, position = (
            jnp.float32(self.score)[None, None],
            jnp.asarray(self.position)[None, None],
        )
        return score, position, jnp.int32(self.time)

    def _scored(self, before, table):
        if self.rule.scores is None:
            return before
        weights, position = jnp.float32(table)[None, None, None], jnp.asarray(self.position)
        found = self.rule.scores(
            jnp.float32(before)[None, None], weights, position[None, None], jnp.int32(self.time)
        )
        return np.asarray(found)[0, 0]

    def _keep(self, places):
        self.position, self.score = self.position[places], self.score[places]


def even(n):
    return [[1 / (i + 1)] * (i + 1) for i in range(n)]


PROMPT = [[1.0], [0.7, 0.3], [0.6, 0.1, 0.3], [0.2, 0.1, 0.3, 0.4]]


def test_h2o_keeps_heavy_and_recent_entries_as_worked_out_by_hand():
    """One heavy hitter, two recent tokens; sums of the columns: 2.5, 0.5, 0.6, 0.4."""
    head = Head(H2O(3, recent=2), PROMPT)
    assert head.position.tolist() == [0, 2, 3]
    np.testing.assert_allclose(head.score, [2.5, 0.6, 0.4], rtol=1e-6)
    head.step([0.5, 0.2, 0.2, 0.1])
    assert head.position.tolist() == [0, 3, 4]
    np.testing.assert_allclose(head.score, [3.0, 0.6, 0.1], rtol=1e-6)
    head.step([0.1, 0.6, 0.2, 0.1])
    assert head.position.tolist() == [0, 4, 5]
    np.testing.assert_allclose(head.score, [3.1, 0.3, 0.1], rtol=1e-6)


def test_a_heavy_hitter_of_h2o_is_replaced_once_another_is_heavier():
    head = Head(H2O(2, recent=1), [[1.0], [0.1, 0.9]])
    head.step([0.0, 0.9, 0.1])  # sums: 1.1, 1.8
    assert head.position.tolist() == [1, 2]


def test_of_equal_scores_the_earliest_entry_stays():
    prompt = [[1.0], [0.5, 0.5], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5, 0.0]]  # sums: 1.5, 1.5, 1, 0
    assert Head(H2O(2, recent=1), prompt).position.tolist() == [0, 3]
    head = Head(H2O(3, recent=1), prompt[:3])
    head.step([0.0, 0.0, 0.5, 0.5])  # sums: 1.5, 1.5, 1.5
    assert head.position.tolist() == [0, 1, 3]


def test_a_window_keeps_the_last_tokens():
    head = Head(Local(3), even(5))
    assert head.position.tolist() == [2, 3, 4]
    head.step([0.25] * 4)
    assert head.position.tolist() == [3, 4, 5]


def test_sinks_stay_and_places_are_ranks():
    policy = StreamingLLM(4, sinks=2)
    head = Head(policy, even(7))
    assert head.position.tolist() == [0, 1, 5, 6]
    # The next token is number 7; five entries have the ranks 0 to 4.
    places = policy.places(jnp.array([0, 1, 5, 6, 7]), jnp.int32(7))
    assert places.tolist() == [0, 1, 2, 3, 4]
    head.step([0.2] * 5)
    assert head.position.tolist() == [0, 1, 6, 7]
    # While nothing was evicted, places are positions.
    assert policy.places(jnp.arange(4), jnp.int32(3)).tolist() == [0, 1, 2, 3]
    assert policy.places(jnp.arange(5), jnp.int32(4)).tolist() == [0, 1, 2, 3, 4]


def test_strided_keeps_a_window_and_every_third_token():
    """Of ten: 8 and 9; then 5 and 2, which are on the stride; the last place has 7."""
    head = Head(Strided(5, stride=3, recent=2), even(10))
    assert head.position.tolist() == [2, 5, 7, 8, 9]
    head.step([1 / 6] * 6)  # 8 leaves the window; it is on the stride, 7 is not
    assert head.position.tolist() == [2, 5, 8, 9, 10]
    head.step([1 / 6] * 6)  # 9 is not on the stride
    assert head.position.tolist() == [2, 5, 8, 10, 11]
    for _ in range(3):
        head.step([1 / 6] * 6)
    assert head.position.tolist() == [5, 8, 11, 13, 14]  # the oldest of the stride went


def test_tova_keeps_what_the_last_token_attends_to():
    head = Head(TOVA(2), PROMPT)
    assert head.position.tolist() == [2, 3]  # 0.3 and 0.4 of the last row
    head.step([0.2, 0.7, 0.1])
    assert head.position.tolist() == [2, 3]  # the new token went


def test_tova_takes_the_mean_over_all_heads_of_a_layer():
    """Weights ``[kv_heads 2, group 2]`` of two entries: means .45 and .55."""
    weights = jnp.array([[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.3, 0.7]]])[None, :, :, None]
    position = jnp.tile(jnp.arange(2), (1, 2, 1))
    scores = TOVA(1).scores(jnp.zeros((1, 2, 2)), weights, position, jnp.int32(1))
    np.testing.assert_allclose(scores[0], [[0.45, 0.55]] * 2, rtol=1e-6)


def test_h2o_and_snapkv_add_over_the_queries_that_share_a_key():
    weights = jnp.array([[[0.9, 0.1], [0.2, 0.8]]])[None, :, :, None]
    position = jnp.arange(2)[None, None]
    scores = H2O(1).scores(jnp.ones((1, 1, 2)), weights, position, jnp.int32(1))
    np.testing.assert_allclose(scores[0, 0], [2.1, 1.9], rtol=1e-6)


SNAP = [
    [1.0],
    [0.0, 1.0],
    [0.0, 0.0, 1.0],
    [0.0, 0.0, 0.0, 1.0],
    [0.3, 0.0, 0.0, 0.2, 0.5],
    [0.3, 0.0, 0.1, 0.3, 0.1, 0.2],
]


def test_snapkv_keeps_the_window_and_neighbours_of_what_it_attends_to():
    """Votes of tokens 4 and 5: .6, 0, .1, .5. Means of three: .2, .2333, .2, .2."""
    head = Head(SnapKV(4, window=2, kernel=3), SNAP)
    assert head.position.tolist() == [0, 1, 4, 5]
    np.testing.assert_allclose(head.score, [0.2, 0.7 / 3, -1, -1], rtol=1e-5)
    head.step([0.0, 0.0, 0.9, 0.05, 0.05])  # 4 leaves the window, whatever its attention
    assert head.position.tolist() == [0, 1, 5, 6]
    # Without pooling, 0 and 3 have most votes; the largest of three: .6, .6, .5, .5.
    assert Head(SnapKV(4, window=2, kernel=1), SNAP).position.tolist() == [0, 3, 4, 5]
    largest = Head(SnapKV(4, window=2, kernel=3, pool="max"), SNAP)
    np.testing.assert_allclose(largest.score, [0.6, 0.6, -1, -1], rtol=1e-6)


def merged(policy, scores, draw=0.0):
    """Entries 0 to 5 with values 10, 11, ...; entry 1 is evicted."""
    given = [
        10 + jnp.arange(6.0)[None, None, :, None],
        jnp.array(scores)[None, None],
        jnp.arange(6)[None, None],
        (jnp.arange(6) == 1)[None, None],
    ]

    class Drawn(CaM):
        def uniform(self, shape, time, layer):
            return jnp.full(shape, draw)

    found = Drawn(**vars(policy)).merge(*given, jnp.int32(5), jnp.int32(0))
    return np.asarray(found)[0, 0, :, 0]


def test_cam_adds_a_part_of_the_evicted_value_to_those_that_follow():
    """Evicted: 11, score 1. Two follow, of mean score 4: merged with a chance of 1/4."""
    policy, scores = CaM(5, sinks=1, merged=2), [9.0, 1.0, 3.0, 5.0, 0.0, 0.0]
    expected = [10, 11, 12 + 5.5, 13 + 5.5, 14, 15]
    np.testing.assert_allclose(merged(policy, scores, draw=0.24), expected, rtol=1e-6)
    np.testing.assert_allclose(merged(policy, scores, draw=0.26), 10 + np.arange(6))
    heavy = [9.0, 4.0, 3.0, 5.0, 0.0, 0.0]  # a chance of one
    np.testing.assert_allclose(merged(policy, heavy, draw=0.999), expected, rtol=1e-6)


def test_cam_evicts_and_places_as_streaming_llm_does():
    head = Head(CaM(5, sinks=2, merged=3), even(8))
    assert head.position.tolist() == [0, 1, 5, 6, 7]


def test_draws_of_cam_differ_by_seed_layer_and_position():
    draws = [
        float(CaM(20, seed=s).uniform((1,), jnp.int32(t), jnp.int32(n))[0])
        for s, t, n in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len(set(draws)) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Local(0), "budget of Local must be an integer >= 1, got 0"),
        (lambda: Local(1.5), r"budget of Local must be an integer >= 1, got 1\.5"),
        (lambda: StreamingLLM(4), r"at least sinks \+ 1 = 5 entries, got 4. Raise the budget"),
        (lambda: StreamingLLM(4, sinks=-1), "sinks of StreamingLLM must be an integer >= 0"),
        (lambda: H2O(4, recent=4), r"H2O must be at least recent \+ 1 = 5 entries, got 4"),
        (lambda: H2O(4, recent=-1), "recent of H2O must be an integer >= 0"),
        (lambda: Strided(1), r"Strided must be at least recent \+ 1 = 2 entries, got 1"),
        (lambda: Strided(4, stride=0), "stride of Strided must be an integer >= 1"),
        (lambda: SnapKV(32), r"SnapKV must be at least window \+ 1 = 33 entries, got 32"),
        (lambda: SnapKV(64, kernel=4), "kernel of SnapKV must be an odd number, got 4"),
        (lambda: SnapKV(64, pool="sum"), "pool of SnapKV must be one of"),
        (lambda: CaM(19), r"CaM must be at least sinks \+ merged = 20 entries, got 19"),
        (lambda: TOVA(0), "budget of TOVA must be an integer >= 1"),
        (lambda: DoubleSparsity(4, ()), r"channels of DoubleSparsity .* found \[\]"),
        (lambda: DoubleSparsity(4, (((1,), (1, 2)),)), r"equally many .* found \[1, 2\]"),
        (lambda: DoubleSparsity(0, (((1,),),)), "budget of DoubleSparsity must be"),
        (lambda: DoubleSparsity(4, (((1,),),), bits=0), "bits of DoubleSparsity must be"),
    ],
)
def test_budgets_that_cannot_work_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_policies_are_data():
    """Equal fields, equal policy: one compiled program serves both."""
    assert H2O(8) == H2O(8) and hash(H2O(8)) == hash(H2O(8)) and H2O(8) != H2O(9)
    assert (
        Full().rule().slots(7) == 7 and H2O(8).rule().slots(7) == 7 and H2O(8).rule().slots(9) == 9
    )
