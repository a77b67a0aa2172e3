"""Small studies of continual learning, and what their tests share."""

from __future__ import annotations

from dst.studies.continual.config import load

STEPS = 12
CONFIG = f"""
name: small
model: {{name: mlp, hidden: [16]}}
data: {{name: digits, batch_size: 64}}
optimizer: {{name: sgd, learning_rate: 0.1}}
method: dense
train: {{steps: {STEPS}, log_every: 6, eval_every: {STEPS}, checkpoint_every: 6, keep: 9}}
mesh: {{data: 1}}
continual: {{tasks: 2}}
"""


def study(folder, *overrides):
    """A study of the small config."""
    (folder / "small.yaml").write_text(CONFIG, encoding="utf-8")
    return load(folder / "small.yaml", overrides)
