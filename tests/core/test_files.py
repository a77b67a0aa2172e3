"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os

import pytest

from dst.core import files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write(path, "old")

    def full(*_):
        raise OSError("disk full")

    for broken in (lambda: files.write(path, "\udcff"), lambda: files.write_json(path, {1, 2})):
        with pytest.raises((UnicodeEncodeError, TypeError)):
            broken()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_at_the_path_before_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    with files.whole(path) as part:
        part.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half" and not part.exists()


def test_characters_that_utf8_cannot_hold_are_refused_or_replaced(tmp_path):
    files.write(tmp_path / "a.txt", "caf\u00e9 \udcff", errors="replace")
    assert (tmp_path / "a.txt").read_bytes() == "café ?".encode()


def test_json_has_no_nan(tmp_path):
    files.write_json(str(tmp_path / "a.json"), {"loss": 0.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
