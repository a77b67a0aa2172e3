"""Text tables are as wide as their longest cells, and end in no spaces."""

from __future__ import annotations

from dst.core.text import aligned

ROWS = [("leaf", "active", "why"), ("out", "12", "by rank"), ("hidden", "1234567", "")]


def test_the_first_column_is_aligned_left_and_the_others_right():
    assert aligned(ROWS) == [
        "leaf     active      why",
        "out          12  by rank",
        "hidden  1234567",
    ]


def test_as_many_columns_as_asked_for_are_aligned_left():
    assert aligned(ROWS, left=3) == [
        "leaf    active   why",
        "out     12       by rank",
        "hidden  1234567",
    ]
