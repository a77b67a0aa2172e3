"""Figures of an accuracy matrix equal tables that were worked by hand."""

from __future__ import annotations

import pytest

from dst.studies.continual import average_accuracy, backward_transfer, forgetting

# Task 1 is best after task 2, task 2 improves at the end.
THREE = [[0.90], [0.95, 0.80], [0.60, 0.85, 1.00]]


def test_three_tasks_by_hand():
    assert average_accuracy(THREE) == pytest.approx((0.60 + 0.85 + 1.00) / 3)
    # (0.60 - 0.90 + 0.85 - 0.80) / 2
    assert backward_transfer(THREE) == pytest.approx(-0.125)
    # (max(0.90, 0.95) - 0.60 + 0.80 - 0.85) / 2: the last row is no past
    assert forgetting(THREE) == pytest.approx(0.15)


def test_four_tasks_by_hand():
    four = [[1.0], [0.5, 0.9], [0.7, 0.4, 0.8], [0.2, 0.6, 0.8, 0.7]]
    assert average_accuracy(four) == pytest.approx(0.575)
    # -0.8 - 0.3 + 0.0
    assert backward_transfer(four) == pytest.approx(-1.1 / 3)
    # 1.0 - 0.2, 0.9 - 0.6, 0.8 - 0.8
    assert forgetting(four) == pytest.approx(1.1 / 3)


def test_what_is_frozen_is_never_forgotten():
    frozen = [[0.9], [0.9, 0.7], [0.9, 0.7, 0.8]]
    assert backward_transfer(frozen) == forgetting(frozen) == 0


def test_a_single_task_has_no_past():
    assert average_accuracy([[0.4]]) == 0.4
    assert backward_transfer([[0.4]]) is forgetting([[0.4]]) is None


@pytest.mark.parametrize("rows", [[], [[0.1, 0.2]], [[0.1], [0.2]], [[0.1], [0.2, 0.3, 0.4]]])
def test_other_tables_are_refused(rows):
    for figure in (average_accuracy, backward_transfer, forgetting):
        with pytest.raises(ValueError, match="one entry in its first row"):
            figure(rows)
