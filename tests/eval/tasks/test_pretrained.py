"""Pretrained models are better than chance in every task that is made."""

from __future__ import annotations

import pytest

from dst import models
from dst.eval import tasks
from tests.pretrained import minilm, smollm2

MADE = [name for name, entry in tasks.REGISTRY.items() if entry.facts["judges"] == "decoder"]


@pytest.fixture(scope="module")
def model():
    return models.load(smollm2(), scan=True)


@pytest.mark.evidence
@pytest.mark.parametrize("name", MADE)
def test_smollm2_is_better_than_chance(name, model):
    found = tasks.judge(tasks.find(name, items=100), model, models.tokenizer(smollm2()))
    print(found)
    assert found.model.low > found.chance


@pytest.mark.evidence
def test_minilm_finds_what_follows():
    found = tasks.judge(tasks.find("retrieval"), models.load(minilm()), models.tokenizer(minilm()))
    print(found)
    assert found.model.low > found.chance
